//! The report of a fitted law: how well it fits, and how far its parameters can be trusted.

mod figures;
mod page;
mod table;

pub use self::figures::figures;
pub use self::page::render;
pub use self::table::summary;

use crate::Result;
use fathom_results::{Fitting, Folder, folder};
use serde_json::Value;

/// Writes the output of a finished fit: `fit.json`, `run.json`, the figures under `plots/` and `report.html`.
///
/// # Errors
///
/// Any error of writing or drawing.
pub fn write(folder: &Folder, fitting: &Fitting, run: &Value) -> Result<()> {
    folder.write_json_atomic(folder::FIT, fitting)?;
    folder.write_json_atomic(folder::RUN, run)?;
    write_report(folder, fitting, run)
}

/// Writes the figures and the page of results that are already in the folder.
///
/// # Errors
///
/// Any error of writing or drawing.
pub fn write_report(folder: &Folder, fitting: &Fitting, run: &Value) -> Result<()> {
    folder.remove_plots("fit_")?;
    for figure in figures(fitting) {
        folder.write_plot(&format!("{}.svg", figure.name), figure.svg()?.as_bytes())?;
        folder.write_plot(&format!("{}.png", figure.name), &figure.png()?)?;
    }
    folder.write_bytes_atomic(folder::REPORT, render(fitting, run)?.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Style;
    use fathom_results::{Environment, fixture};

    const STYLE: Style = Style { unicode: false, width: 120, colour: false };

    fn names(fitting: &Fitting) -> Vec<String> {
        figures(fitting).into_iter().map(|figure| figure.name).collect()
    }

    #[test]
    fn every_part_of_a_fit_has_its_figure() {
        assert_eq!(names(&fixture::fitting()), ["fit_data", "fit_residuals", "fit_profiles", "fit_scan"]);
        assert_eq!(names(&fixture::regression()), ["fit_data", "fit_residuals", "fit_partial"]);
        let one = fixture::fitting().fit.unwrap();
        let environment = |name: &str| Environment { name: name.to_owned(), fit: one.clone() };
        let several = Fitting {
            fit: None,
            environments: vec![environment("run"), environment("jump")],
            ..fixture::fitting()
        };
        let all = figures(&several);
        assert_eq!(
            (all.len(), all[4].name.as_str(), all[4].title.as_str()),
            (8, "fit_2_data", "Data and fit: jump")
        );
        for figure in all {
            assert!(figure.png().unwrap().len() > 5_000, "{}", figure.name);
        }
    }

    #[test]
    fn figures_hold_the_numbers_of_the_file() {
        let all = figures(&fixture::fitting());
        let table = |name: &str| all.iter().find(|figure| figure.name == name).unwrap().table().clone();
        assert_eq!(table("fit_data").rows[1], ("2: run <two>".to_owned(), vec![2.2, 2.05 + 0.098 * 2.0]));
        assert_eq!(table("fit_scan").rows[1], ("3".to_owned(), vec![1.18, 0.003]));
        let left = table("fit_residuals").rows[0].1[1];
        assert!((left - (2.1_f64 / 2.148).ln()).abs() < 1e-12);
        assert_eq!(table("fit_profiles").rows.len(), 4);
    }

    #[test]
    fn the_page_says_what_is_known_and_escapes_what_is_foreign() {
        let mut fitting = fixture::fitting();
        fitting.data.file = "<script>x</script>.csv".to_owned();
        let page = render(&fitting, &fixture::run()).unwrap();
        assert!(!page.contains("<script>x") && !page.contains("run <two>"));
        for text in [
            "0.945",
            "0.783 to 1.107",
            "not converged",
            "arXiv 2602.05970",
            "d_model 4270",
            "45.5 (37.5 to 53.5)",
            "drop 3",
            "only 3 of 16 starts agree",
            "The optimum is flat.",
        ] {
            assert!(page.contains(text), "{text}");
        }
        let page = render(&fixture::regression(), &fixture::run()).unwrap();
        assert!(page.contains("Variance inflation") && page.contains("condition number 7.5"));
    }

    #[test]
    fn the_terminal_has_every_parameter_scan_and_prediction() {
        let text = summary(&fixture::fitting(), STYLE);
        for line in [
            "depth: loss by width, layers and data",
            "a_m             0.945      0.081           0.783 to 1.107       0.977",
            "a_l             1.325       none                                1.201",
            "converged. 15 of 16 starts agree.",
            "drop 3                        9     0.003",
            "params 7e9, layers 32 (d_model 4270): 2.034, 2.007 to 2.06",
            "layers                   45.5 (37.5 to 53.5)",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        let mut fitting = fixture::fitting();
        fitting.fit.as_mut().unwrap().objective.converged = false;
        assert!(summary(&fitting, STYLE).contains("NOT converged"));
        let text = summary(&fixture::regression(), STYLE);
        assert!(
            text.contains("VIF") && text.contains("layers") && text.contains("1 degrees of freedom"),
            "{text}"
        );
    }

    #[test]
    fn damage_is_drawn_in_bounded_time() {
        let mut fitting = fixture::fitting();
        let fit = fitting.fit.as_mut().unwrap();
        fit.points[0].observed = 1e300;
        fit.points[1].predicted = -1e300;
        fit.points[2].predicted = f64::NAN;
        fit.profiles[0].values[0] = f64::NAN;
        fit.profiles[0].objectives[1] = 1e300;
        fit.scan[0].value = "1e300".to_owned();
        for figure in figures(&fitting) {
            assert!(figure.svg().unwrap().len() < 200_000, "{}", figure.name);
            figure.png().unwrap();
        }
    }
}
