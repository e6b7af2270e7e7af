//! A regression against statsmodels 0.15 (`OLS(..).fit()`, `variance_inflation_factor`, `get_prediction`).

use approx::assert_relative_eq;
use fathom_laws::regress::Formula;
use fathom_laws::{Choice, Options, Outcome, Table, fit};
use fathom_results::Named;

const CSV: &str = "layers,d_ff,params,score
12,3072,0.13,5.1
24,8192,1.6,8.9
32,14336,7.2,19.4
40,12800,8.1,22.0
48,20480,34.4,26.3
28,24576,8.5,17.2
32,11008,6.7,12.9
80,28672,70.5,36.7
30,4608,0.4,7.0
16,8192,1.2,9.8
22,5632,1.1,8.2
26,9216,2.6,15.5
";

fn run(formula: &str, at: &[(&str, f64)]) -> Outcome {
    let table = Table::from_csv(CSV.as_bytes()).unwrap();
    let at = Named(at.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect());
    let at = if at.is_empty() { Vec::new() } else { vec![at] };
    let options = Options { at, ..Options::default() };
    fit(&Choice::Regress(Formula::parse(formula).unwrap()), &table, &options).unwrap()
}

#[test]
fn equals_statsmodels() {
    let outcome =
        run("score ~ layers + d_ff + ln(params)", &[("layers", 64.0), ("d_ff", 20000.0), ("params", 30.0)]);
    let fitted = &outcome.fits[0].1;
    // Coefficient, standard error, t, p, interval.
    let expected = [
        (
            "intercept",
            [
                2.8831124052526356,
                2.4359987578467686,
                1.1835442838242989,
                0.2705671392083789,
                -2.734310803694224,
                8.500535614199496,
            ],
        ),
        (
            "layers",
            [
                0.24647220187249236,
                0.08103256296532939,
                3.0416439126817205,
                0.016023200604978076,
                0.05961077658825084,
                0.43333362715673385,
            ],
        ),
        (
            "d_ff",
            [
                0.00019725824908047019,
                0.00022487788252460768,
                0.8771794134040053,
                0.4059593524640756,
                -0.00032131107793723177,
                0.0007158275760981721,
            ],
        ),
        (
            "ln(params)",
            [
                1.947998360543182,
                1.112084478724343,
                1.751664012771498,
                0.11793382667550721,
                -0.6164730460915218,
                4.512469767177886,
            ],
        ),
    ];
    for (name, [value, error, t, p, low, high]) in expected {
        let found = fitted.parameters.get(name).unwrap();
        let interval = found.interval.unwrap();
        let pairs = [
            (found.value, value),
            (found.stderr.unwrap(), error),
            (found.t.unwrap(), t),
            (found.p.unwrap(), p),
            (interval[0], low),
            (interval[1], high),
        ];
        for (found, expected) in pairs {
            assert_relative_eq!(found, expected, max_relative = 1e-9);
        }
    }
    let regression = fitted.regression.as_ref().unwrap();
    assert_relative_eq!(fitted.r2, 0.9406800239845264, max_relative = 1e-9);
    assert_relative_eq!(regression.adjusted_r2, 0.9184350329787239, max_relative = 1e-9);
    assert_relative_eq!(regression.deviation, 2.6431678011909083, max_relative = 1e-9);
    assert_relative_eq!(regression.condition, 10.455280368254419, max_relative = 1e-9);
    assert_eq!(regression.freedom, 8);
    for ((_, found), expected) in
        regression.vif.iter().zip([3.2867397160362612, 5.232817042548435, 6.265824462781116])
    {
        assert_relative_eq!(*found, expected, max_relative = 1e-9);
    }
    let prediction = &fitted.predictions[0];
    let [low, high] = prediction.interval.unwrap();
    for (found, expected) in [
        (prediction.value, 29.228025230063196),
        (prediction.stderr.unwrap(), 1.7203051512248113),
        (low, 25.260994437525753),
        (high, 33.19505602260064),
    ] {
        assert_relative_eq!(found, expected, max_relative = 1e-9);
    }
    assert!(outcome.warnings[1].contains("'layers' and 'ln(params)' (0."), "{:?}", outcome.warnings);
    assert!(
        outcome.warnings[0].contains("'d_ff' and 'ln(params)' are nearly collinear"),
        "{:?}",
        outcome.warnings
    );
}

#[test]
fn partial_residuals_have_the_slope_of_the_coefficient() {
    let outcome = run("score ~ layers + d_ff + ln(params)", &[]);
    let fitted = &outcome.fits[0].1;
    for partial in &fitted.regression.as_ref().unwrap().partial {
        let products: f64 = partial.of_term.iter().zip(&partial.of_response).map(|(x, y)| x * y).sum();
        let squares: f64 = partial.of_term.iter().map(|x| x * x).sum();
        // The theorem of Frisch, Waugh and Lovell.
        assert_relative_eq!(
            products / squares,
            fitted.parameters.get(&partial.term).unwrap().value,
            max_relative = 1e-9
        );
    }
}

#[test]
fn one_term_has_nothing_to_be_collinear_with() {
    let outcome = run("score ~ layers", &[]);
    let fitted = &outcome.fits[0].1;
    assert_relative_eq!(
        fitted.parameters.get("intercept").unwrap().value,
        0.1728624535315948,
        max_relative = 1e-9
    );
    assert_relative_eq!(
        fitted.parameters.get("layers").unwrap().stderr.unwrap(),
        0.06301024365979024,
        max_relative = 1e-9
    );
    assert_relative_eq!(fitted.r2, 0.8526400519129553, max_relative = 1e-9);
    assert_relative_eq!(fitted.regression.as_ref().unwrap().vif.0[0].1, 1.0, max_relative = 1e-12);
    assert!(outcome.warnings.is_empty());
}
