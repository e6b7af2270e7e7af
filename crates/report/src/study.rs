//! `study.html`: many models on many data sets side by side, as one file like the report of a run.
//!
//! The input is plain data: the results of the cells, the answers in words, and tables. All figures are drawn from the
//! results of the cells.

mod figures;
mod page;
mod ratios;

pub use self::page::{StudyAnswer, StudyCell, StudyData, StudyModel, StudyPage, Table};

use minijinja::value::Serde;
use minijinja::{Value as Cell, context};

use crate::gauge::{Gauge, MarkKind, short};
use crate::plots::Figure;
use crate::{Result, page as shared};
use fathom_results::{Folder, Results};

/// The file name of the page within the study's folder.
pub const STUDY: &str = "study.html";
const TEMPLATE: &str = include_str!("page/study.html.jinja");

/// Writes `study.html` and the study's figures under `plots/` into the folder and removes
/// earlier figures.
///
/// # Errors
///
/// Any error of drawing or writing.
pub fn write(folder: &Folder, page: &StudyPage) -> Result<()> {
    folder.remove_plots("study_")?;
    for figure in figures(page) {
        folder.write_plot(&format!("{}.svg", figure.name), figure.svg()?.as_bytes())?;
        folder.write_plot(&format!("{}.png", figure.name), &figure.png()?)?;
    }
    folder.write_bytes_atomic(STUDY, render(page)?.as_bytes())?;
    Ok(())
}

/// All figures that the cells have numbers for, in the order of the page.
pub fn figures(page: &StudyPage) -> Vec<Figure> {
    ratios::by_size(page)
        .into_iter()
        .chain(ratios::by_difficulty(page))
        .chain(figures::curves(page))
        .collect()
}

/// Renders the page.
///
/// # Errors
///
/// [`crate::Error::Draw`] when a figure or the template fails.
pub fn render(page: &StudyPage) -> Result<String> {
    let figures = figures(page).iter().map(shared::figure).collect::<Result<Vec<Cell>>>()?;
    let models = models(page);
    let tables: Vec<&Table> = page.tables.iter().chain([&models]).collect();
    let data: Vec<&String> = page.data.iter().map(|data| &data.name).collect();
    let context = context! {
        title => page.title.as_str(),
        data => Cell::from(Serde(data)),
        overview => (0..page.models.len()).map(|model| overview(page, model)).collect::<Vec<_>>(),
        answers => Cell::from(Serde(&page.answers)),
        tables => Cell::from(Serde(tables)),
        figures => figures,
        settings => Cell::from(Serde(&page.settings)),
    };
    shared::render(STUDY, TEMPLATE, context)
}

/// The row of a model in the table of all cells.
fn overview(page: &StudyPage, model: usize) -> Cell {
    let cells = (0..page.data.len()).map(|data| {
        let cell = page.cell(model, data);
        let text = match cell.and_then(|cell| cell.results.as_ref()) {
            Some(results) => range(results),
            None => {
                let reason = cell.and_then(|cell| cell.reason.as_deref());
                reason.map_or("not measured".to_owned(), |reason| format!("not measured: {reason}"))
            }
        };
        // Only a path within the study's folder becomes a link.
        let report = cell.and_then(|cell| cell.report.as_deref());
        let report = report.filter(|path| !path.contains(':') && !path.starts_with(['/', '\\']));
        context! { text => text, report => report, missing => page.results(model, data).is_none() }
    });
    context! { name => page.models[model].name.as_str(), cells => cells.collect::<Vec<_>>() }
}

/// The range of the up-to rules, such as "18 to 25 of 30".
fn range(results: &Results) -> String {
    let layers = results.model.layers;
    let Some(gauge) = Gauge::of(results) else { return "no depth".to_owned() };
    let used: Vec<f64> = gauge.of_kind(MarkKind::UpTo).map(|found| found.used).collect();
    match (used.last().copied().map(short), used.first().copied().map(short)) {
        (Some(low), Some(high)) if low == high => format!("{low} of {layers}"),
        (Some(low), Some(high)) => format!("{low} to {high} of {layers}"),
        _ => "no depth".to_owned(),
    }
}

/// The table of the models.
fn models(page: &StudyPage) -> Table {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let row = |(index, model): (usize, &StudyModel)| {
        let layers = (0..page.data.len()).find_map(|data| page.results(index, data)).map(|r| r.model.layers);
        vec![
            model.name.clone(),
            text(&model.family),
            model.size.map_or(String::new(), |size| size.to_string()),
            text(&model.kind),
            layers.map_or(String::new(), |layers| layers.to_string()),
        ]
    };
    let headings =
        ["model", "family", "billions of parameters", "type", "layers"].map(str::to_owned).to_vec();
    let rows = page.models.iter().enumerate().map(row).collect();
    Table { title: "Models".to_owned(), headings, rows }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_results::fixture;

    const ATTACK: &str = "</script><img src=x onerror=alert(1)>";

    pub(super) fn example() -> StudyPage {
        let model = |name: &str, size: f64, kind: &str| StudyModel {
            name: name.to_owned(),
            family: Some("Example".to_owned()),
            size: Some(size),
            kind: Some(kind.to_owned()),
        };
        let data = |name: &str, label: &str, order: f64| StudyData {
            name: name.to_owned(),
            difficulty: Some((label.to_owned(), order)),
            series: Some("sums".to_owned()),
        };
        let cell = |model: usize, data: usize| {
            let mut results = fixture::results();
            results.depth[0].value = Some((18 + model + data) as f64);
            results.depth[0].layers_used = Some((19 + model + data) as f64);
            results.depth[0].ratio = Some((19 + model + data) as f64 / 30.0);
            let report = Some(format!("model-{model}/data-{data}/report.html"));
            StudyCell { model, data, results: Some(results), reason: None, report }
        };
        let missing =
            StudyCell { model: 2, data: 1, results: None, reason: Some("killed".to_owned()), report: None };
        StudyPage {
            title: "Example study".to_owned(),
            models: vec![
                model("small", 0.135, "base"),
                model("large", 1.7, "base"),
                model("chat", 1.7, "instruct"),
            ],
            data: vec![data("hard", "hard", 2.0), data("easy", "easy", 1.0)],
            cells: vec![cell(0, 0), cell(0, 1), cell(1, 0), cell(1, 1), cell(2, 0), missing],
            answers: vec![StudyAnswer {
                question: "Do larger models use more of their depth?".to_owned(),
                summary: "There is no evidence that they do.".to_owned(),
                details: vec!["kl: from small to large".to_owned()],
                others: vec!["overlap: from small to large".to_owned()],
            }],
            tables: vec![Table {
                title: "All cells".to_owned(),
                headings: vec!["model".to_owned(), "kl".to_owned()],
                rows: vec![vec!["small".to_owned(), "18 (0.63)".to_owned()]],
            }],
            settings: vec![("seed".to_owned(), "42".to_owned())],
        }
    }

    #[test]
    fn the_page_holds_every_figure() {
        let page = render(&example()).unwrap();
        assert_eq!(page.matches("<svg").count(), figures(&example()).len());
    }

    #[test]
    fn names_are_shown_and_never_markup_or_links() {
        let mut study = example();
        study.title = ATTACK.to_owned();
        study.models[0].name = ATTACK.to_owned();
        study.models[1].family = Some(ATTACK.to_owned());
        study.data[0].name = ATTACK.to_owned();
        study.data[1].difficulty = Some((ATTACK.to_owned(), 3.0));
        study.data[1].series = Some(ATTACK.to_owned());
        study.answers[0].details[0] = ATTACK.to_owned();
        study.tables[0].rows[0][0] = ATTACK.to_owned();
        study.cells[0].report = Some("javascript:alert(1)".to_owned());
        let page = render(&study).unwrap();
        assert!(!page.contains("<img") && !page.contains("javascript:"));
        assert_eq!(page.matches("</script").count(), 1);
    }

    #[test]
    fn a_study_without_cells_or_models_gives_a_page() {
        let mut study = example();
        study.cells.clear();
        assert!(render(&study).unwrap().contains("not measured"));
        assert!(figures(&study).is_empty());
        assert!(render(&StudyPage::default()).is_ok());
    }

    #[test]
    fn a_study_leaves_its_page_and_its_figures() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::create(parent.path().join("study")).unwrap();
        write(&folder, &example()).unwrap();
        let count = |path: std::path::PathBuf| std::fs::read_dir(path).unwrap().count();
        assert_eq!(count(folder.path().join(crate::folder::PLOTS)), 2 * figures(&example()).len());
        assert!(folder.path().join(STUDY).exists());
    }
}
