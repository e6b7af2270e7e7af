use super::rules::{Exits, Rule};
use super::*;
use fathom_results::HeadValues;

const DEPTH: usize = 4;

struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Texts of 20 tokens whose predictions are right as often as they are confident, and more so the deeper they are.
fn samples(count: usize, seed: u64) -> Vec<ExitSample> {
    let mut random = Random(seed);
    let text = |i: usize| {
        let mut head = |better: f64| {
            let mut values = HeadValues::default();
            for level in 0..DEPTH {
                let certainty = (level as f64 + better) / DEPTH as f64;
                let prob: Vec<f64> =
                    (0..20).map(|_| (random.next() * certainty * 1.3).clamp(0.01, 1.0)).collect();
                let agrees = prob.iter().map(|p| if random.next() < p.sqrt() { '1' } else { '0' }).collect();
                values.margin.push(prob.iter().map(|p| 0.8 * p).collect());
                values.entropy.push(prob.iter().map(|p| 5.0 * (1.0 - p)).collect());
                values.nll.push(prob.iter().map(|p| 3.0 - p).collect());
                values.acceptance.push(prob.iter().map(|p| p.sqrt()).collect());
                values.prob.push(prob);
                values.agrees.push(agrees);
            }
            values
        };
        let heads = [(ExitHead::Lens, head(0.5)), (ExitHead::Linear, head(1.0))].into();
        ExitSample { id: format!("{seed} {i}"), nll: vec![2.0; 20], heads, ..ExitSample::default() }
    };
    (0..count).map(text).collect()
}

fn costs() -> ExitCosts {
    ExitCosts { layers: vec![10.0, 11.0, 12.0, 13.0], key_values: vec![1.0; DEPTH], head: 2.0, map: 0.5 }
}

const OPTIONS: ExitOptions = ExitOptions { epsilon: 0.2, delta: 0.1, resamples: 200, seed: 1 };

fn analyse(options: &ExitOptions) -> (ExitAnalysis, [Vec<ExitSample>; 3]) {
    analyse_with(costs(), options)
}

fn analyse_with(costs: ExitCosts, options: &ExitOptions) -> (ExitAnalysis, [Vec<ExitSample>; 3]) {
    let all = [samples(30, 1), samples(80, 2), samples(40, 3)];
    let of = |i: usize| all[i].iter().collect();
    let texts = ExitTexts { fit: of(0), calibration: of(1), heldout: of(2), costs: &costs };
    (texts.analyse(&[], options).unwrap(), all)
}

/// Every token by itself, from the definition.
fn naive(rule: &ExitRule, sample: &ExitSample, threshold: f64) -> Exits {
    let (values, costs) = (&sample.heads[&rule.head], costs());
    let mut all = Exits { levels: vec![0.0; DEPTH + 1], ..Exits::default() };
    for token in 0..sample.nll.len() {
        let (mut cost, mut left) = (0.0, None);
        for level in 0..DEPTH {
            if rule.levels.contains(&level) && left.is_none() {
                cost += 2.0 + if rule.head == ExitHead::Linear { 0.5 } else { 0.0 };
                let confidence = match rule.confidence {
                    Confidence::Prob => values.prob[level][token],
                    Confidence::Margin => values.margin[level][token],
                    Confidence::Entropy => -values.entropy[level][token],
                };
                if confidence >= threshold {
                    left = Some(level);
                }
            }
            cost += if left.is_some() { costs.key_values[level] } else { costs.layers[level] };
        }
        all.tokens += 1.0;
        match left {
            Some(level) => {
                all.changed += if &values.agrees[level][token..=token] == "1" { 0.0 } else { 1.0 };
                all.nll += values.nll[level][token];
                all.levels[level] += 1.0;
            }
            None => {
                cost += costs.head;
                all.nll += 2.0;
                all.levels[DEPTH] += 1.0;
            }
        }
        all.cost += cost;
    }
    all
}

#[test]
fn rules_do_what_a_naive_recomputation_does() {
    let (analysis, [_, calibration, heldout]) = analyse(&OPTIONS);
    // Three single levels and the set of all, of every second none: levels 1 to 3.
    assert_eq!(analysis.rules.len(), 2 * 3 * 4);
    let certified: Vec<&ExitRule> = analysis.rules.iter().filter(|r| r.threshold.is_some()).collect();
    assert!(certified.len() > 12, "{}", certified.len());
    for rule in certified {
        let (threshold, measured) = (rule.threshold.unwrap(), rule.measured.as_ref().unwrap());
        let risk = |samples: &[ExitSample], threshold: f64| {
            samples.iter().map(|s| naive(rule, s, threshold).risk()).sum::<f64>() / samples.len() as f64
        };
        assert!((measured.risk_calibration - risk(&calibration, threshold)).abs() < 1e-12);
        assert!((measured.risk_heldout.value - risk(&heldout, threshold)).abs() < 1e-12);
        let p = risk::p_value(measured.risk_calibration, calibration.len(), 0.2);
        assert!(p == measured.p_value && p <= 0.1);
        let exits: Vec<Exits> = heldout.iter().map(|s| naive(rule, s, threshold)).collect();
        let sum = |of: fn(&Exits) -> f64| exits.iter().map(of).sum::<f64>();
        let tokens = sum(|e| e.tokens);
        assert!((measured.net_saving.value - (1.0 - sum(|e| e.cost) / (tokens * 48.0))).abs() < 1e-12);
        assert!((measured.nll - sum(|e| e.nll) / tokens).abs() < 1e-12);
        assert!((measured.shares[DEPTH] - sum(|e| e.levels[DEPTH]) / tokens).abs() < 1e-12);
        assert!((measured.shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let own = Rule { head: rule.head, confidence: rule.confidence, levels: rule.levels.clone() };
        let (fast, slow) = (own.apply(&heldout[0], &costs(), threshold), naive(rule, &heldout[0], threshold));
        assert_eq!((fast.changed, fast.levels), (slow.changed, slow.levels));
    }
}

#[test]
fn stricter_limits_let_fewer_tokens_leave() {
    let (analysis, _) = analyse(&OPTIONS);
    let points: Vec<&EpsilonRule> = analysis.by_epsilon.iter().collect();
    assert!(points.iter().any(|p| p.epsilon == 0.2 && p.rule.is_some()));
    // Eighty texts certify nothing at one in a hundred.
    assert!(points[0].epsilon == 0.01 && points[0].rule.is_none());
    let same = |p: &&&EpsilonRule| p.epsilon == 0.2;
    let chosen = &analysis.rules[analysis.choice.rule.unwrap()];
    assert_eq!(points.iter().find(same).unwrap().rule.as_ref(), Some(chosen));
    let saving = |rule: &ExitRule| rule.measured.as_ref().unwrap().net_saving.value;
    let savings: Vec<f64> = points.iter().filter_map(|p| p.rule.as_ref().map(saving)).collect();
    assert!(savings.windows(2).all(|pair| pair[0] <= pair[1] + 0.02), "{savings:?}");
}

#[test]
fn what_cannot_be_certified_is_said() {
    let (analysis, _) = analyse(&ExitOptions { epsilon: 0.01, ..OPTIONS });
    assert!(analysis.choice.rule.is_none() && !analysis.choice.pays);
    assert!(
        analysis.choice.reason.contains("does not pay: 80 calibration texts certify nothing"),
        "{:?}",
        analysis.choice
    );
    assert!(analysis.rules.iter().all(|rule| rule.threshold.is_none() && rule.measured.is_none()));
    // Looking at a level costs more than all layers.
    let (analysis, _) = analyse_with(ExitCosts { head: 100.0, ..costs() }, &OPTIONS);
    let rule = &analysis.rules[analysis.choice.rule.unwrap()];
    assert!(rule.measured.as_ref().unwrap().net_saving.value < 0.0 && !analysis.choice.pays);
    let reason = &analysis.choice.reason;
    assert!(reason.contains("does not pay: the best rule is") && reason.contains("more (95 %"), "{reason}");
}

#[test]
fn damaged_samples_are_refused() {
    let mut all = samples(3, 1);
    all[1].heads.get_mut(&ExitHead::Lens).unwrap().agrees.pop();
    let costs = costs();
    let texts =
        ExitTexts { fit: all.iter().collect(), calibration: Vec::new(), heldout: Vec::new(), costs: &costs };
    assert_eq!(texts.analyse(&[], &OPTIONS), Err(Error::Exit { id: "1 1".to_owned() }));
}

#[test]
fn an_example_shows_where_its_tokens_leave() {
    let (analysis, [fit, calibration, heldout]) = analyse(&OPTIONS);
    let costs = costs();
    let [fit, calibration, held] = [&fit, &calibration, &heldout].map(|all| all.iter().collect());
    let texts = ExitTexts { fit, calibration, heldout: held, costs: &costs };
    let rule = &analysis.rules[analysis.choice.rule.unwrap()];
    let pieces: Vec<String> = (0..21).map(|i| i.to_string()).collect();
    let example = texts.example(rule, &heldout[4].id, &pieces).unwrap();
    let expected = naive(rule, &heldout[4], rule.threshold.unwrap());
    for (level, count) in expected.levels.iter().enumerate() {
        assert_eq!(example.levels.iter().filter(|l| **l == level).count() as f64, *count);
    }
    assert_eq!(example.agrees.iter().filter(|a| !**a).count() as f64, expected.changed);
    assert_eq!(example.pieces.len(), 20);
}
