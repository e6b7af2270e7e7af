//! The figures of a fit.

use crate::plots::axis::Axis;
use crate::plots::canvas::{PAGE, Stroke};
use crate::plots::color::Color;
use crate::plots::grid::Grid;
use crate::plots::legend::{LegendEntry, LegendMark};
use crate::plots::panel::{Curve, Dots, Mark, Panel};
use crate::plots::{Body, Figure, FigureTable};
use crate::text::{decimal, value};
use fathom_results::{FitPoint, Fitted, Fitting, PartialResiduals, Profile, ScanPoint};

/// Rows that are drawn; more would only cover each other.
const MOST_POINTS: usize = 3_000;

/// Panels of one figure.
const MOST_PANELS: usize = 12;

/// All figures, in the order of the page: those of one environment after the other.
pub fn figures(fitting: &Fitting) -> Vec<Figure> {
    let mut all = Vec::new();
    for (index, (name, fit)) in fitting.fits().enumerate() {
        let drawing = Drawing { fitting, fit, name, index };
        let own =
            [drawing.data(), drawing.residuals(), drawing.profiles(), drawing.scan(), drawing.partial()];
        all.extend(own.into_iter().flatten());
    }
    all
}

/// A fit to be drawn.
struct Drawing<'a> {
    fitting: &'a Fitting,
    fit: &'a Fitted,
    /// Its environment, if there are several.
    name: Option<&'a str>,
    index: usize,
}

impl Drawing<'_> {
    fn figure(
        &self,
        name: &str,
        title: &str,
        reading: &'static str,
        grid: Grid,
        table: FigureTable,
    ) -> Figure {
        let name = match self.name {
            Some(_) => format!("fit_{}_{name}", self.index + 1),
            None => format!("fit_{name}"),
        };
        let title = self.name.map_or(title.to_owned(), |environment| format!("{title}: {environment}"));
        let file = self.fitting.data.file.rsplit(['/', '\\']).next().unwrap_or_default();
        let caption = format!("{} on {file}", self.fitting.law.name());
        Figure::new(name, title, reading, caption, (Body::Panels(grid), table))
    }

    /// The points that can be drawn, and whether on logarithmic axes: if all are positive and span more than a decade.
    fn points(&self) -> (Vec<&FitPoint>, bool) {
        let is_finite = |p: &&FitPoint| p.observed.is_finite() && p.predicted.is_finite();
        let points: Vec<&FitPoint> = self.fit.points.iter().filter(is_finite).take(MOST_POINTS).collect();
        let values = || points.iter().flat_map(|p| [p.observed, p.predicted]);
        let (least, most) = values().fold((f64::INFINITY, 0.0), |(l, m): (f64, f64), v| (l.min(v), m.max(v)));
        let log = least > 0.0 && most > 10.0 * least;
        (points, log)
    }

    /// Observed against predicted.
    fn data(&self) -> Option<Figure> {
        let (points, log) = self.points();
        points.first()?;
        let values = || points.iter().flat_map(|p| [p.observed, p.predicted]);
        let axis =
            |label: &str| if log { Axis::log_around(label, values()) } else { Axis::around(label, values()) };
        let (x, y) = (axis("by the law"), axis("observed"));
        let ends = [x.low.max(y.low), x.high.min(y.high)];
        let mut panel = Panel::new("", x, y);
        let diagonal = ends.map(|end| (end, end)).to_vec();
        panel.curves.push(Curve {
            points: diagonal,
            color: Color::Soft,
            stroke: Stroke::Dashed,
            dots: Dots::None,
        });
        panel.curves.extend(points.iter().map(|p| dot((p.predicted, p.observed), p.dropped)));
        let row = |p: &&FitPoint| (label(p), vec![p.observed, p.predicted]);
        let table = FigureTable {
            index: "row".to_owned(),
            headings: ["observed", "by the law"].map(str::to_owned).to_vec(),
            rows: points.iter().map(row).collect(),
        };
        let reading = "Each dot is a row of the table. On the dashed line the law is exact; hollow dots were left out of the \
                       fit.";
        Some(self.figure("data", "Data and fit", reading, Grid::one(panel, self.legend()), table))
    }

    fn legend(&self) -> Vec<LegendEntry> {
        let entry = |label: &str, color, mark| LegendEntry { label: label.to_owned(), color, mark };
        let mut legend = vec![entry("fitted", Color::Blue, LegendMark::Dot)];
        if self.fit.points.iter().any(|p| p.dropped) {
            legend.push(entry("left out", Color::Vermilion, LegendMark::Ring));
        }
        legend
    }

    /// What is left of each row.
    fn residuals(&self) -> Option<Figure> {
        let (points, log) = self.points();
        points.first()?;
        let positive = points.iter().all(|p| p.observed > 0.0 && p.predicted > 0.0);
        let logarithmic = self.fit.objective.residual != "squared" && positive;
        let left = |p: &FitPoint| match logarithmic {
            true => (p.observed / p.predicted).ln(),
            false => p.observed - p.predicted,
        };
        let name = if logarithmic { "ln observed - ln law" } else { "observed - law" };
        let predicted = points.iter().map(|p| p.predicted);
        let x = match log {
            true => Axis::log_around("by the law", predicted),
            false => Axis::around("by the law", predicted),
        };
        let y = Axis::around(name, points.iter().map(|p| left(p)).chain([0.0]));
        let mut panel = Panel::new("", x, y);
        panel.curves.extend(points.iter().map(|p| dot((p.predicted, left(p)), p.dropped)));
        panel.levels.push(Mark { at: 0.0, interval: None, label: String::new(), color: Color::Soft });
        let table = FigureTable {
            index: "row".to_owned(),
            headings: ["by the law", name].map(str::to_owned).to_vec(),
            rows: points.iter().map(|p| (label(p), vec![p.predicted, left(p)])).collect(),
        };
        let reading = "What the law leaves of each row. A pattern, rather than a cloud around zero, says that the law has \
                       another shape than the data.";
        Some(self.figure("residuals", "Residuals", reading, Grid::one(panel, self.legend()), table))
    }

    /// The best objective against the value of each parameter.
    fn profiles(&self) -> Option<Figure> {
        let drawable = |p: &&Profile| p.objectives.iter().filter(|o| o.is_finite()).count() > 1;
        let profiles: Vec<&Profile> = self.fit.profiles.iter().filter(drawable).take(MOST_PANELS).collect();
        profiles.first()?;
        let columns = profiles.len().clamp(1, 3);
        let panels = profiles.iter().map(|profile| self.profile(profile)).collect();
        let row = |profile: &&Profile| {
            let one = |(at, objective): (&f64, &f64)| {
                (format!("{} = {}", profile.parameter, value(*at)), vec![*objective])
            };
            profile.values.iter().zip(&profile.objectives).map(one).collect::<Vec<_>>()
        };
        let table = FigureTable {
            index: "parameter".to_owned(),
            headings: vec!["objective".to_owned()],
            rows: profiles.iter().flat_map(row).collect(),
        };
        let grid = Grid { legend: Vec::new(), columns, panels, height: 170.0, width: PAGE };
        let reading = "The least objective with a parameter held at each value and all others fitted, within three standard \
                       errors. Where the curve is flat, the data hardly say which value is right, and an optimiser that \
                       stops early ends anywhere in the valley.";
        Some(self.figure("profiles", "Profiles of the parameters", reading, grid, table))
    }

    fn profile(&self, profile: &Profile) -> Panel {
        let pairs = profile.values.iter().zip(&profile.objectives);
        let points: Vec<(f64, f64)> =
            pairs.filter(|(_, o)| o.is_finite()).map(|(value, objective)| (*value, *objective)).collect();
        let x = points
            .iter()
            .map(|p| p.0)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let y = Axis::around("objective", points.iter().map(|p| p.1));
        let mut panel =
            Panel::new(profile.parameter.as_str(), Axis::new(profile.parameter.as_str(), x.0, x.1), y);
        panel.curves.push(Curve { points, color: Color::Blue, stroke: Stroke::Solid, dots: Dots::None });
        if let Some(found) = self.fit.parameters.get(&profile.parameter) {
            panel.marks.push(Mark {
                at: found.value,
                interval: found.interval,
                label: format!("fit {}", decimal(found.value)),
                color: Color::Vermilion,
            });
        }
        let published = self.fit.published.as_ref().and_then(|p| p.parameters.get(&profile.parameter));
        if let Some(published) = published {
            let label = format!("published {}", decimal(*published));
            panel.marks.push(Mark { at: *published, interval: None, label, color: Color::Purple });
        }
        panel
    }

    /// Exponents against the number of rows that were left out.
    fn scan(&self) -> Option<Figure> {
        let dropped =
            |p: &ScanPoint| Some((p.value.parse::<f64>().ok()?, p.parameters.clone()?, p.objective?));
        let points: Vec<_> =
            self.fit.scan.iter().filter(|p| p.choice == "drop").filter_map(dropped).collect();
        if points.len() < 2 {
            return None;
        }
        let names: Vec<&str> =
            self.fit.profiles.iter().map(|p| p.parameter.as_str()).take(MOST_PANELS).collect();
        let names = if names.is_empty() { points[0].1.iter().map(|(name, _)| name).collect() } else { names };
        let columns = names.len().clamp(1, 3);
        let most = points.iter().map(|p| p.0).fold(1.0, f64::max);
        let panel = |name: &&str| {
            let curve: Vec<(f64, f64)> = points.iter().filter_map(|p| Some((p.0, *p.1.get(name)?))).collect();
            let y = Axis::around("", curve.iter().map(|p| p.1));
            let x = Axis::whole("rows left out", 0.0, most, Grid::inner_width(PAGE, columns));
            let mut panel = Panel::new(*name, x, y);
            panel.curves.push(Curve {
                points: curve,
                color: Color::Blue,
                stroke: Stroke::Solid,
                dots: Dots::Filled,
            });
            panel
        };
        let panels = names.iter().map(panel).collect();
        let table = FigureTable {
            index: "rows left out".to_owned(),
            headings: names.iter().map(|name| (*name).to_owned()).chain(["objective".to_owned()]).collect(),
            rows: points
                .iter()
                .map(|(drop, parameters, objective)| {
                    let value = |name: &&str| parameters.get(name).copied().unwrap_or(f64::NAN);
                    (drop.to_string(), names.iter().map(value).chain([*objective]).collect())
                })
                .collect(),
        };
        let grid = Grid { legend: Vec::new(), columns, panels, height: 150.0, width: PAGE };
        let reading = "The fit again with other numbers of the highest losses left out. A parameter that moves more than its \
                       interval depends on that choice.";
        Some(self.figure("scan", "What leaving out rows changes", reading, grid, table))
    }

    /// What is left of a term and of the response after all other terms.
    fn partial(&self) -> Option<Figure> {
        let partial = &self.fit.regression.as_ref()?.partial;
        let shown: Vec<&PartialResiduals> = partial.iter().take(MOST_PANELS).collect();
        shown.first()?;
        let columns = shown.len().clamp(1, 3);
        let panel = |p: &&PartialResiduals| {
            let x = Axis::around("left of the term", p.of_term.iter().copied());
            let y = Axis::around("left of the response", p.of_response.iter().copied());
            let ends = [x.low, x.high];
            let mut panel = Panel::new(p.term.as_str(), x, y);
            let pairs = p.of_term.iter().zip(&p.of_response).take(MOST_POINTS);
            panel.curves.extend(pairs.map(|(x, y)| dot((*x, *y), false)));
            if let Some(slope) = self.fit.parameters.get(&p.term) {
                let points = ends.map(|end| (end, slope.value * end)).to_vec();
                panel.curves.push(Curve {
                    points,
                    color: Color::Vermilion,
                    stroke: Stroke::Solid,
                    dots: Dots::None,
                });
            }
            panel
        };
        let row = |p: &&PartialResiduals| {
            let one =
                |(index, (x, y)): (usize, (&f64, &f64))| (format!("{}, {}", p.term, index + 1), vec![*x, *y]);
            p.of_term.iter().zip(&p.of_response).take(MOST_POINTS).enumerate().map(one).collect::<Vec<_>>()
        };
        let table = FigureTable {
            index: "term and row".to_owned(),
            headings: ["left of the term", "left of the response"].map(str::to_owned).to_vec(),
            rows: shown.iter().flat_map(row).collect(),
        };
        let panels = shown.iter().map(panel).collect();
        let grid = Grid { legend: Vec::new(), columns, panels, height: 170.0, width: PAGE };
        let reading = "For each term, what all other terms leave of it and of the response. The line's slope is the \
                       coefficient. A narrow cloud means that the other terms already say what this one says.";
        Some(self.figure("partial", "Partial residuals", reading, grid, table))
    }
}

fn dot(at: (f64, f64), dropped: bool) -> Curve {
    let (color, dots) = if dropped { (Color::Vermilion, Dots::Hollow) } else { (Color::Blue, Dots::Filled) };
    Curve { points: vec![at], color, stroke: Stroke::Solid, dots }
}

fn label(point: &FitPoint) -> String {
    match &point.name {
        Some(name) => format!("{}: {}", point.row, crate::text::line(name)),
        None => point.row.to_string(),
    }
}
