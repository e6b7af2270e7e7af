//! What a study's finished cells say: tables of effective depth, and answers to the study's questions.

use crate::compare::{Difference, MOST_NONE, PairedRuns, Pairing, RunCurves};
use crate::curves::{BootstrapOptions, PromptCurves, rows_of};
use crate::study::{Cell, ComparedPair, Question, StudyData, StudyDescription, grouped};
use crate::{Error, format};
use fathom_depth::{Depth, IntervalOf, Rule};
use fathom_results::Sample;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;

/// A finished cell, without the values of single tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct FinishedCell {
    /// The curves of its prompts.
    pub curves: PromptCurves,
    /// Its depth table.
    pub depth: Vec<Depth>,
}

impl FinishedCell {
    /// A cell from its samples and its model's number of layers. With the settings of the
    /// measurement its depth table is that of results.json.
    ///
    /// # Errors
    /// As [`PromptCurves::of`].
    pub fn of(samples: &[Sample], layers: usize, settings: &BootstrapOptions) -> Result<Self, Error> {
        let curves = PromptCurves::of(samples, layers)?;
        let depth = rows_of(&curves, settings);
        Ok(Self { curves, depth })
    }
}

/// What a study says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tables {
    /// The study's name.
    pub name: String,
    /// How uncertainty was had.
    pub settings: BootstrapOptions,
    /// The rules that any cell could feed: the columns.
    pub rules: Vec<Rule>,
    /// Every cell, those of one model together.
    pub rows: Vec<Row>,
    /// The cells put together for each question that has groups of more than one.
    pub views: Vec<View>,
    /// The three questions, answered.
    pub answers: Vec<Answer>,
}

/// A model on a data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The model's name.
    pub model: String,
    /// What `fathom measure` was given.
    pub model_id: String,
    /// The model's family.
    pub family: Option<String>,
    /// Billions of parameters.
    pub size: Option<f64>,
    /// How it was trained.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The data set's name.
    pub data: String,
    /// What `fathom measure --data` was given.
    pub data_id: String,
    /// How hard the data are.
    pub difficulty: Option<String>,
    /// What was measured; nothing where the cell is missing.
    pub measured: Option<Measured>,
}

/// What was measured of a cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The number of layers.
    pub layers: usize,
    /// The number of prompts.
    pub prompts: usize,
    /// The depth table.
    pub depth: Vec<Depth>,
}

/// The cells as one question looks at them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct View {
    /// The question.
    pub question: Question,
    /// What belongs together.
    pub groups: Vec<Group>,
}

/// Cells that differ in what a question asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// What they have in common.
    pub title: String,
    /// Indices of the rows, in the question's order.
    pub rows: Vec<usize>,
}

/// A question and the study's answer to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The question.
    pub question: Question,
    /// The question in words.
    pub about: String,
    /// The rule by which it is answered.
    pub primary: Rule,
    /// How many comparisons by the primary rule were tested together, by Holm's method.
    pub tested: usize,
    /// How many of their intervals would exclude 0 by chance if nothing differed.
    pub expected_by_chance: f64,
    /// How many of their intervals do.
    pub exclude_zero: usize,
    /// The answer in words.
    pub summary: String,
    /// Every comparison: those by the primary rule, and those by the others, which only describe.
    pub comparisons: Vec<Compared>,
}

/// Two cells compared by one rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// The first of the pair: a model, or for difficulty a data set.
    pub a: String,
    /// The second.
    pub b: String,
    /// What both share: the data set, or for difficulty the model.
    pub on: String,
    /// The rule; nothing where a cell is missing altogether.
    pub rule: Option<Rule>,
    /// Whether the answer rests on it: by the question's primary rule, or not made at all.
    pub primary: bool,
    /// The change of the ratio from the first to the second.
    pub change: Option<Difference>,
    /// The p-value of the change after Holm's correction for all that were tested with it.
    pub p_holm: Option<f64>,
    /// Whether both were resampled together.
    pub pairing: Option<Pairing>,
    /// What follows.
    pub verdict: Verdict,
    /// The whole in words.
    pub sentence: String,
}

/// What follows from a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The second uses more of the depth: the change is positive, and its p-value after Holm's
    /// correction is at most 5 %.
    More,
    /// The second uses less of the depth.
    Less,
    /// The p-value is larger.
    NoEvidence,
    /// The rule finds nothing in one of the two, or a value with a caution, or there are too few prompts
    /// for an interval.
    NoValue,
    /// One of the two was not measured.
    NotMeasured,
    /// None: the rule is not the primary one.
    NotTested,
}

impl Tables {
    /// Puts the finished cells of a study together.
    pub fn of(
        study: &StudyDescription,
        finished: &BTreeMap<Cell, FinishedCell>,
        settings: &BootstrapOptions,
    ) -> Self {
        let has = |rule: &Rule| finished.values().any(|cell| cell.depth.iter().any(|row| row.rule == *rule));
        let rules: Vec<Rule> = Rule::ALL.into_iter().filter(has).collect();
        let rows = study.cells().map(|cell| row(study, cell, finished.get(&cell))).collect();
        let views =
            Question::ALL.into_iter().map(|question| View { question, groups: groups(study, question) });
        let cells = Cells { study, finished, rules: &rules, settings };
        Self {
            name: study.name.clone(),
            settings: *settings,
            rows,
            views: views.filter(|view| !view.groups.is_empty()).collect(),
            answers: Question::ALL.into_iter().map(|question| cells.answer(question)).collect(),
            rules,
        }
    }
}

fn row(study: &StudyDescription, cell: Cell, finished: Option<&FinishedCell>) -> Row {
    let (model, data) = (&study.models[cell.model], &study.data[cell.data]);
    Row {
        model: model.name.clone(),
        model_id: model.id.clone(),
        family: model.family.clone(),
        size: model.size,
        kind: model.kind.clone(),
        data: data.name.clone(),
        data_id: data.id.clone(),
        difficulty: data.difficulty.as_ref().map(|difficulty| difficulty.label.clone()),
        measured: finished.map(|finished| Measured {
            layers: finished.curves.layers(),
            prompts: finished.curves.prompts(),
            depth: finished.depth.clone(),
        }),
    }
}

/// The groups of a question that have more than one to compare, each with its rows in order.
fn groups(study: &StudyDescription, question: Question) -> Vec<Group> {
    let row = |model: usize, data: usize| model * study.data.len() + data;
    let all_data = 0..study.data.len();
    if question == Question::Difficulty {
        let key =
            |data: &StudyData| data.difficulty.as_ref().map(|_| data.series.clone().unwrap_or_default());
        let difficulty = |i: &usize| study.data[*i].difficulty.as_ref().map_or(0.0, |known| known.order);
        let mut series = grouped(&study.data, key);
        series.iter_mut().for_each(|order| order.sort_by(|i, j| difficulty(i).total_cmp(&difficulty(j))));
        series.retain(|order| order.len() > 1);
        let group = |m: usize, order: &Vec<usize>| Group {
            title: match &study.data[order[0]].series {
                Some(series) => format!("{}, {series}", study.models[m].name),
                None => study.models[m].name.clone(),
            },
            rows: order.iter().map(|data| row(m, *data)).collect(),
        };
        let models = 0..study.models.len();
        return models
            .flat_map(|m| series.iter().map(move |order| (m, order)))
            .map(|(m, o)| group(m, o))
            .collect();
    }
    let title = |model: &crate::study::StudyModel| {
        let family = model.family.as_ref()?;
        Some(match question {
            Question::Scale => match (model.size, &model.kind) {
                (None, _) => return None,
                (_, None) => family.clone(),
                (_, Some(kind)) => format!("{family}, {kind}"),
            },
            _ => format!("{family}, {}B", model.size.filter(|_| model.kind.is_some())?),
        })
    };
    let mut groups = Vec::new();
    for mut models in grouped(&study.models, title).into_iter().filter(|models| models.len() > 1) {
        if question == Question::Scale {
            let size = |i: &usize| study.models[*i].size.unwrap_or_default();
            models.sort_by(|i, j| size(i).total_cmp(&size(j)));
        }
        let rows = all_data.clone().flat_map(|data| models.iter().map(move |model| row(*model, data)));
        groups
            .push(Group { title: title(&study.models[models[0]]).unwrap_or_default(), rows: rows.collect() });
    }
    groups
}

/// The cells and how they are compared.
struct Cells<'a> {
    study: &'a StudyDescription,
    finished: &'a BTreeMap<Cell, FinishedCell>,
    rules: &'a [Rule],
    settings: &'a BootstrapOptions,
}

/// Two cells and what they are called.
#[derive(Clone, Copy)]
struct Two<'a> {
    question: Question,
    cells: [Cell; 2],
    a: &'a str,
    b: &'a str,
    on: &'a str,
}

impl Two<'_> {
    /// "from a to b on c".
    fn way(&self) -> String {
        let joint = if self.question == Question::Difficulty { "in" } else { "on" };
        format!("from {} to {} {joint} {}", self.a, self.b, self.on)
    }

    fn compared(&self, rule: Option<Rule>, verdict: Verdict, said: &str) -> Compared {
        let rule_name = rule.map_or(String::new(), |rule| format!("{}: ", rule.name()));
        Compared {
            a: self.a.to_owned(),
            b: self.b.to_owned(),
            on: self.on.to_owned(),
            rule,
            primary: true,
            change: None,
            p_holm: None,
            pairing: None,
            verdict,
            sentence: format!("{rule_name}{said}"),
        }
    }
}

impl<'a> Cells<'a> {
    fn answer(&self, question: Question) -> Answer {
        let primary = self.study.primary[&question];
        let pairs = self.study.pairs.iter().filter(|pair| pair.question == question);
        let twos = pairs.flat_map(|pair| self.twos(*pair));
        let mut drafts: Vec<(Two<'a>, Compared)> = twos
            .flat_map(|two| self.compare(&two, primary).into_iter().map(move |compared| (two, compared)))
            .collect();
        judge(&mut drafts);
        let comparisons: Vec<Compared> = drafts.into_iter().map(|(_, compared)| compared).collect();
        let tested = || comparisons.iter().filter(|one| one.p_holm.is_some());
        let exclude_zero =
            tested().filter(|one| one.change.is_some_and(|change| change.excludes_zero)).count();
        let tested = tested().count();
        let mut answer = Answer {
            question,
            about: question.about().to_owned(),
            primary,
            tested,
            expected_by_chance: ERROR_RATE * tested as f64,
            exclude_zero,
            summary: String::new(),
            comparisons,
        };
        answer.summary = summary(&answer);
        answer
    }

    /// A pair on everything that it can be compared on.
    fn twos(&self, pair: ComparedPair) -> Vec<Two<'a>> {
        let (models, data) = (&self.study.models, &self.study.data);
        let ComparedPair { question, a, b } = pair;
        match question {
            Question::Difficulty => (0..models.len())
                .map(|model| Two {
                    question,
                    cells: [a, b].map(|data| Cell { model, data }),
                    a: &data[a].name,
                    b: &data[b].name,
                    on: &models[model].name,
                })
                .collect(),
            Question::Scale | Question::Training => (0..data.len())
                .map(|on| Two {
                    question,
                    cells: [a, b].map(|model| Cell { model, data: on }),
                    a: &models[a].name,
                    b: &models[b].name,
                    on: &data[on].name,
                })
                .collect(),
        }
    }

    fn compare(&self, two: &Two<'_>, primary: Rule) -> Vec<Compared> {
        let missing: Vec<String> = two
            .cells
            .iter()
            .filter(|cell| !self.finished.contains_key(cell))
            .map(|cell| self.study.title(*cell))
            .collect();
        let [Some(a), Some(b)] = two.cells.map(|cell| self.finished.get(&cell)) else {
            let said = format!("{}: not measured ({} missing)", two.way(), missing.join(" and "));
            return vec![two.compared(None, Verdict::NotMeasured, &said)];
        };
        let (a, b) =
            (RunCurves { name: two.a, curves: &a.curves }, RunCurves { name: two.b, curves: &b.curves });
        // Where the prompts are the same, what makes one hard for both cancels.
        let pairing = match a.curves.places_in(b.curves) {
            Ok(_) => Pairing::Paired,
            Err(_) => Pairing::Unpaired,
        };
        match PairedRuns::of(a, b, pairing, self.settings) {
            Ok(both) => {
                let by_rule = |rule: &Rule| {
                    let compared = self.by_rule(two, &both, *rule, pairing);
                    Compared { primary: *rule == primary, ..compared }
                };
                // A primary rule that no cell could feed is missing, and not passed over.
                let missing = (!self.rules.contains(&primary)).then_some(&primary);
                self.rules.iter().chain(missing).map(by_rule).collect()
            }
            Err(error) => {
                let said = format!("{}: no interval, because {error}", two.way());
                vec![two.compared(None, Verdict::NoValue, &said)]
            }
        }
    }

    fn by_rule(&self, two: &Two<'_>, both: &PairedRuns<'_>, rule: Rule, pairing: Pairing) -> Compared {
        let way = two.way();
        let Some(found) = both.rule(rule, self.settings) else {
            let said = format!("{way}: not measured (its probe was not run in both)");
            return two.compared(Some(rule), Verdict::NotMeasured, &said);
        };
        let Some(change) = found.ratio else {
            let (name, depth) = if found.a.ratio.is_none() { (two.a, &found.a) } else { (two.b, &found.b) };
            let reason = depth.reason.as_deref().unwrap_or("the rule finds nothing");
            let said = format!("{way}: no value for {name} ({reason})");
            return two.compared(Some(rule), Verdict::NoValue, &said);
        };
        let by = format::change(change.difference);
        let interval = format::interval(change.interval, format::change);
        let said = format!("ratio changes by {by} {interval} {way}");
        let cautions: Vec<String> = [(two.a, &found.a), (two.b, &found.b)]
            .into_iter()
            .filter_map(|(name, depth)| Some(format!("in {name}, {}", depth.caution.as_ref()?)))
            .collect();
        let doubt = match change.none_share {
            share if share > MOST_NONE => {
                Some(format!("the rule finds nothing in {:.0} % of the resamples", 100.0 * share))
            }
            _ if change.p_value.is_none() => Some("there is no interval".to_owned()),
            _ => (!cautions.is_empty()).then(|| cautions.join(", and ")),
        };
        let (verdict, said) = match doubt {
            Some(doubt) => (Verdict::NoValue, format!("{said}: not judged, because {doubt}")),
            None => (Verdict::NotTested, said),
        };
        Compared { change: Some(change), pairing: Some(pairing), ..two.compared(Some(rule), verdict, &said) }
    }
}

/// The share of studies without any difference that may say of some comparison that there is one.
const ERROR_RATE: f64 = 0.05;

/// Gives the comparisons by the primary rule their verdicts, all of a question together.
fn judge(drafts: &mut [(Two<'_>, Compared)]) {
    let mut tested: Vec<&mut (Two<'_>, Compared)> = drafts
        .iter_mut()
        .filter(|(_, compared)| compared.primary && compared.verdict == Verdict::NotTested)
        .collect();
    let p_values: Vec<f64> =
        tested.iter().filter_map(|(_, compared)| compared.change.and_then(|change| change.p_value)).collect();
    for ((two, compared), p) in tested.iter_mut().map(|draft| &mut **draft).zip(holm(&p_values)) {
        let rises = compared.change.is_some_and(|change| change.difference > 0.0);
        let (verdict, follows) = match (p <= ERROR_RATE, rises) {
            (false, _) => (Verdict::NoEvidence, "no evidence of change".to_owned()),
            (true, true) => (Verdict::More, uses(two, "more")),
            (true, false) => (Verdict::Less, uses(two, "less")),
        };
        compared.verdict = verdict;
        compared.p_holm = Some(p);
        compared.sentence += &format!(": {follows} (Holm-corrected {})", format::p_value(p));
    }
}

/// Holm's correction: p-values that may be compared with the error rate of the whole family (S. Holm,
/// "A simple sequentially rejective multiple test procedure", 1979).
fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|i, j| p_values[*i].total_cmp(&p_values[*j]));
    let mut corrected = vec![1.0; p_values.len()];
    let mut least: f64 = 0.0;
    for (rank, i) in order.into_iter().enumerate() {
        let stricter = (p_values.len() - rank) as f64 * p_values[i];
        least = least.max(stricter).min(1.0);
        corrected[i] = least;
    }
    corrected
}

fn uses(two: &Two<'_>, much: &str) -> String {
    match two.question {
        Question::Difficulty => format!("{} uses {much} of its depth on {}", two.on, two.b),
        Question::Scale | Question::Training => format!("{} uses {much} of its depth", two.b),
    }
}

/// How many comparisons by the primary rule say what.
fn summary(answer: &Answer) -> String {
    let Answer { question, primary, tested, exclude_zero, .. } = answer;
    let comparisons: Vec<&Compared> = answer.comparisons.iter().filter(|one| one.primary).collect();
    let count = |verdict| comparisons.iter().filter(|one| one.verdict == verdict).count();
    if comparisons.is_empty() {
        let needs = match question {
            Question::Scale => "two models of one family and type with different sizes",
            Question::Training => "two models of one family and size with different types",
            Question::Difficulty => "two data sets of different difficulty",
        };
        return format!("Not qa: the study has no {needs}, and declares no such pair.");
    }
    let said: Vec<String> = [
        (Verdict::More, "more"),
        (Verdict::Less, "less"),
        (Verdict::NoEvidence, "no evidence of change"),
        (Verdict::NoValue, "no value"),
        (Verdict::NotMeasured, "not measured"),
    ]
    .into_iter()
    .filter(|(verdict, _)| count(*verdict) > 0)
    .map(|(verdict, name)| format!("{name} in {}", count(verdict)))
    .collect();
    let (more, less, unchanged) = (count(Verdict::More), count(Verdict::Less), count(Verdict::NoEvidence));
    let verdict = match (more, less) {
        (0, 0) if unchanged == 0 => "Not known",
        (0, 0) => "No evidence",
        (_, 0) if more == comparisons.len() => "More",
        (0, _) if less == comparisons.len() => "Less",
        (_, 0) => "More in some comparisons",
        (0, _) => "Less in some comparisons",
        _ => "More in some comparisons and less in others",
    };
    let all = comparisons.len();
    let many = if all == 1 { "comparison" } else { "comparisons" };
    let mut text = format!("{verdict}: of {all} {many} by {primary}, {}", said.join(", "));
    if *tested > 0 {
        let chance = format::count(answer.expected_by_chance);
        text += &format!(
            "; {exclude_zero} of {tested} intervals exclude 0, where {chance} would by chance if nothing differed"
        );
    }
    text += ".";
    let apart = comparisons.iter().filter(|one| one.pairing == Some(Pairing::Unpaired)).count();
    if apart > 0 && *question != Question::Difficulty {
        text += &format!(" In {apart} the prompts differ, and each side was resampled on its own.");
    }
    text
}

/// "17 (0.64) [16, 18]", or "9.4 (0.35); mean 9.8 [9.1, 10.4]", and an asterisk where there is a caution.
fn depth_cell(depth: &Depth) -> String {
    let (Some(value), Some(ratio)) = (depth.value, depth.ratio) else { return "none".to_owned() };
    let mean = depth.mean.map_or(String::new(), |mean| format!("; mean {}", format::layer(mean)));
    let interval = depth
        .interval
        .map_or(String::new(), |found| format!(" {}", format::interval(Some(found), format::layer)));
    let caution = if depth.caution.is_some() { "*" } else { "" };
    format!("{}{caution} ({}){mean}{interval}", format::layer(value), format::share(ratio))
}

/// What the verdicts rest on.
const VERDICTS: &str = "Verdicts are by the primary rule of the question alone, at an error rate of 5 % for all its \
comparisons together (Holm's correction). The other rules describe and are not tested.";

impl Tables {
    /// The headings of the columns: names, size of the measurement, then one column a rule.
    pub fn heading(&self) -> Vec<String> {
        let fixed = ["model", "data", "layers", "prompts"].map(str::to_owned);
        fixed.into_iter().chain(self.rules.iter().map(|rule| rule.name().to_owned())).collect()
    }

    /// A row's cells, one for each heading.
    pub fn line(&self, row: &Row) -> Vec<String> {
        let dash = || "-".to_owned();
        let mut cells = vec![row.model.clone(), row.data.clone()];
        let Some(measured) = &row.measured else {
            cells.extend([dash(), "not measured".to_owned()]);
            cells.extend(self.rules.iter().map(|_| dash()));
            return cells;
        };
        cells.extend([measured.layers.to_string(), measured.prompts.to_string()]);
        cells.extend(self.rules.iter().map(|rule| {
            let found = measured.depth.iter().find(|depth| depth.rule == *rule);
            found.map_or_else(dash, depth_cell)
        }));
        cells
    }

    /// What the cells hold and how sure they are, in words.
    pub fn caption(&self) -> String {
        let BootstrapOptions { resamples, seed, .. } = self.settings;
        let prompts =
            self.rows.iter().filter_map(|row| row.measured.as_ref()).map(|measured| measured.prompts);
        let (few, largest) = (format::caution(prompts), format::largest(self.rules.iter().copied()));
        let cautioned = self.rows.iter().filter_map(|row| row.measured.as_ref());
        let cautioned = cautioned.flat_map(|measured| &measured.depth).any(|depth| depth.caution.is_some());
        let star = match cautioned {
            true => "* The curve turns back later, and the value says little; the CSV says where.",
            false => "",
        };
        format!(
            "Effective depth (share of the layers) with its 95 % bootstrap interval over prompts \
             ({resamples} resamples, seed {seed}). {few} {largest} {star}"
        )
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
    }

    /// The whole as Markdown.
    pub fn markdown(&self) -> String {
        let table = |rows: &[usize]| {
            let rows: Vec<Vec<String>> = rows.iter().map(|i| self.line(&self.rows[*i])).collect();
            format::markdown(&self.heading(), &rows)
        };
        let all: Vec<usize> = (0..self.rows.len()).collect();
        let mut out = format!("# {}\n\n{}\n\n{}", format::clean(&self.name), self.caption(), table(&all));
        for View { question, groups } in &self.views {
            out += &format!("\n## By {}\n", question.name());
            for group in groups {
                out += &format!("\n### {}\n\n{}", format::clean(&group.title), table(&group.rows));
            }
        }
        for answer in &self.answers {
            out += &format!("\n## {}\n\n{}\n", answer.about, answer.summary);
            let list = |primary: bool| -> String {
                answer.sentences(primary).map(|said| format!("- {}\n", format::clean(said))).collect()
            };
            let (tested, others) = (list(true), list(false));
            if !tested.is_empty() {
                out += &format!("\n{tested}\n{VERDICTS}\n");
            }
            if !others.is_empty() {
                out += &format!("\nBy the other rules:\n\n{others}");
            }
        }
        out
    }

    /// The cells as CSV, one line for each rule of each; one without a rule where a cell is missing.
    ///
    /// # Errors
    /// None that is known: the writer writes to memory.
    pub fn csv(&self) -> io::Result<String> {
        let heading = "model model_id family size type data data_id difficulty layers prompts \
                       rule threshold value ratio lo hi reason layers_used mean interval_of caution";
        let mut lines = vec![heading.split_whitespace().map(str::to_owned).collect::<Vec<_>>()];
        for row in &self.rows {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let names = [
                row.model.clone(),
                row.model_id.clone(),
                text(&row.family),
                plain(row.size),
                text(&row.kind),
                row.data.clone(),
                row.data_id.clone(),
                text(&row.difficulty),
            ];
            let Some(measured) = &row.measured else {
                let empty = |fields| std::iter::repeat_n(String::new(), fields);
                let missing = empty(8).chain(["not measured".to_owned()]).chain(empty(4));
                lines.push(names.into_iter().chain(missing).collect());
                continue;
            };
            for depth in &measured.depth {
                let mut line = names.to_vec();
                line.extend([measured.layers.to_string(), measured.prompts.to_string()]);
                line.extend([depth.rule.name().to_owned(), plain(depth.threshold), plain(depth.value)]);
                let [lo, hi] = [0, 1].map(|end| plain(depth.interval.map(|interval| interval[end])));
                line.extend([plain(depth.ratio), lo, hi, text(&depth.reason)]);
                let of = depth.interval_of.map_or("", |of| match of {
                    IntervalOf::Value => "value",
                    IntervalOf::Mean => "mean",
                });
                line.extend([
                    plain(depth.layers_used),
                    plain(depth.mean),
                    of.to_owned(),
                    text(&depth.caution),
                ]);
                lines.push(line);
            }
        }
        csv(&lines)
    }

    /// The comparisons behind the answers as CSV.
    ///
    /// # Errors
    /// As [`Tables::csv`].
    pub fn answers_csv(&self) -> io::Result<String> {
        let heading = [
            "question",
            "a",
            "b",
            "on",
            "rule",
            "pairing",
            "ratio_change",
            "lo",
            "hi",
            "verdict",
            "sentence",
            "primary",
            "p_value",
            "p_holm",
        ];
        let mut lines = vec![heading.map(str::to_owned).to_vec()];
        for answer in &self.answers {
            for one in &answer.comparisons {
                let interval = one.change.and_then(|change| change.interval);
                let [lo, hi] = [0, 1].map(|end| plain(interval.map(|interval| interval[end])));
                lines.push(vec![
                    answer.question.name().to_owned(),
                    one.a.clone(),
                    one.b.clone(),
                    one.on.clone(),
                    one.rule.map_or("", Rule::name).to_owned(),
                    one.pairing.map_or("", Pairing::name).to_owned(),
                    plain(one.change.map(|change| change.difference)),
                    lo,
                    hi,
                    one.verdict.name().to_owned(),
                    one.sentence.clone(),
                    if one.primary { "yes" } else { "no" }.to_owned(),
                    plain(one.change.and_then(|change| change.p_value)),
                    plain(one.p_holm),
                ]);
            }
        }
        csv(&lines)
    }

    /// The tables and answers as LaTeX for a document that uses booktabs and graphicx.
    pub fn latex(&self) -> String {
        let all = Group { title: String::new(), rows: (0..self.rows.len()).collect() };
        let mut out = "% \\usepackage{booktabs,graphicx}\n".to_owned();
        out += &self.latex_table("All cells.", std::slice::from_ref(&all));
        for View { question, groups } in &self.views {
            out += &self.latex_table(&format!("By {}.", question.name()), groups);
        }
        for answer in &self.answers {
            let (about, summary) = (format::latex(&answer.about), format::latex(&answer.summary));
            out += &format!("\n\\paragraph{{{about}}} {summary}\n");
            if answer.comparisons.is_empty() {
                continue;
            }
            let list = |primary: bool| -> String {
                answer.sentences(primary).map(|said| format!("\\item {}\n", format::latex(said))).collect()
            };
            let (tested, others) = (list(true), list(false));
            out += &format!("\\begin{{itemize}}\n{tested}\\end{{itemize}}\n{}\n", format::latex(VERDICTS));
            if !others.is_empty() {
                out += &format!("By the other rules:\n\\begin{{itemize}}\n{others}\\end{{itemize}}\n");
            }
        }
        out
    }

    fn latex_table(&self, title: &str, groups: &[Group]) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| format::latex(cell)).collect();
            format!("{} \\\\\n", cells.join(" & "))
        };
        let columns = 4 + self.rules.len();
        let mut out = format!(
            "\n\\begin{{table}}\n\\caption{{{title} {}}}\n\\resizebox{{\\linewidth}}{{!}}{{%\n\\begin{{tabular}}{{llrr{}}}\n\\toprule\n",
            format::latex(&self.caption()),
            "l".repeat(self.rules.len())
        );
        out += &line(&self.heading());
        for Group { title, rows } in groups {
            out += "\\midrule\n";
            if !title.is_empty() {
                out +=
                    &format!("\\multicolumn{{{columns}}}{{l}}{{\\emph{{{}}}}} \\\\\n", format::latex(title));
            }
            for row in rows {
                out += &line(&self.line(&self.rows[*row]));
            }
        }
        out + "\\bottomrule\n\\end{tabular}}\n\\end{table}\n"
    }

    /// The whole as indented JSON.
    ///
    /// # Errors
    /// None that is known: every part can be written.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

impl Answer {
    /// The comparisons in words: those by the primary rule, or those by the others.
    pub fn sentences(&self, primary: bool) -> impl Iterator<Item = &str> {
        let of = self.comparisons.iter().filter(move |one| one.primary == primary);
        of.map(|one| one.sentence.as_str())
    }
}

impl Verdict {
    /// The name in CSV and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::More => "more",
            Self::Less => "less",
            Self::NoEvidence => "no_evidence",
            Self::NoValue => "no_value",
            Self::NotMeasured => "not_measured",
            Self::NotTested => "not_tested",
        }
    }
}

/// A number with all its digits, or nothing.
fn plain(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

fn csv(lines: &[Vec<String>]) -> io::Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for line in lines {
        writer.write_record(line).map_err(io::Error::other)?;
    }
    let bytes = writer.into_inner().map_err(|error| io::Error::other(error.to_string()))?;
    String::from_utf8(bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4 x 0.01, then 3 x 0.02, then 2 x 0.03, never falling.
    #[test]
    fn holm_by_hand() {
        assert_eq!(holm(&[0.02, 0.01, 0.03, 0.5]), [0.06, 0.04, 0.06, 0.5]);
        assert_eq!(holm(&[0.9, 0.6]), [1.0, 1.0]);
        assert_eq!(holm(&[0.04]), [0.04]);
        assert!(holm(&[]).is_empty());
    }
}
