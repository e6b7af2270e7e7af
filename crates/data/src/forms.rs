//! The rows of published data sets, and the prompts that are made of them.

use crate::rows::{self, Fields, Row};
use crate::{RowProblem, format};

/// What the fields of a row are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Those of Fathom's own files.
    Own,
    Gsm8k,
    HellaSwag,
    Aime,
    Math,
    Mquake,
}

/// Which rows are taken; the others are passed over.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Filter {
    /// Only problems of this level.
    pub(crate) level: Option<u64>,
    /// Only questions of this many hops.
    pub(crate) hops: Option<u64>,
}

/// In front of the final answer of GSM8K.
const MARK: &str = "####";

impl Form {
    /// The form of a file whose first row has these fields. Only what can be nothing else is recognised.
    pub(crate) fn of(fields: &Fields<'_>) -> Self {
        let has = |names: &[&str]| names.iter().all(|name| fields.has(name));
        let marked = || fields.string("answer").is_ok_and(|answer| answer.is_some_and(|a| a.contains(MARK)));
        if fields.has("text") {
            Self::Own
        } else if has(&["ctx", "endings", "label"]) {
            Self::HellaSwag
        } else if has(&["Problem", "Solution", "Answer"]) {
            Self::Aime
        } else if has(&["problem", "solution", "level"]) {
            Self::Math
        } else if has(&["questions", "answer"]) && (has(&["single_hops"]) || has(&["new_single_hops"])) {
            Self::Mquake
        } else if has(&["question", "answer"]) && marked() {
            Self::Gsm8k
        } else {
            Self::Own
        }
    }

    /// The name of the set.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Own => "rows of prompts",
            Self::Gsm8k => "gsm8k",
            Self::HellaSwag => "hellaswag",
            Self::Aime => "aime24",
            Self::Math => "math",
            Self::Mquake => "mquake",
        }
    }

    /// The fields that a row needs, in words.
    fn needs(self) -> &'static str {
        match self {
            Self::Own => "\"text\"",
            Self::Gsm8k => "\"question\" and \"answer\"",
            Self::HellaSwag => "\"ctx\", \"endings\" and \"label\"",
            Self::Aime => "\"problem\" and \"solution\"",
            Self::Math => "\"problem\", \"solution\" and \"level\"",
            Self::Mquake => "\"questions\", \"answer\" and \"single_hops\"",
        }
    }

    /// How many tokens a prompt has at most in arXiv 2512.14064; longer ones are left out there.
    pub(crate) fn max_tokens(self) -> Option<usize> {
        (self == Self::Aime).then_some(400)
    }

    /// The prompt that a row gives, or `None` if the filter leaves it out.
    pub(crate) fn row(self, fields: &Fields<'_>, filter: Filter) -> Result<Option<Row>, RowProblem> {
        match self {
            Self::Own => rows::own(fields).map(Some),
            Self::Gsm8k => self.gsm8k(fields).map(Some),
            Self::HellaSwag => self.hellaswag(fields).map(Some),
            Self::Aime => self.aime(fields).map(Some),
            Self::Math => self.math(fields, filter.level),
            Self::Mquake => self.mquake(fields, filter.hops),
        }
    }

    fn gsm8k(self, fields: &Fields<'_>) -> Result<Row, RowProblem> {
        let question = self.text(fields, &["question"])?;
        let worked = self.text(fields, &["answer"])?;
        let (rationale, answer) = worked.split_once(MARK).ok_or(RowProblem::NoMark)?;
        let answer = answer.trim();
        if answer.is_empty() {
            return Err(RowProblem::Empty { field: "answer" });
        }
        let text = format::gsm8k(&question, rationale, answer);
        Ok(Row { text, answer: Some(answer.to_owned()), ..Row::default() })
    }

    fn hellaswag(self, fields: &Fields<'_>) -> Result<Row, RowProblem> {
        let context = self.text(fields, &["ctx"])?;
        let endings = fields.strings("endings")?.ok_or_else(|| self.missing(fields))?;
        let label = fields.label("label")?.ok_or_else(|| self.missing(fields))?;
        let ending = label.parse().ok().and_then(|label: usize| endings.get(label));
        let ending = ending.ok_or(RowProblem::Label { endings: endings.len() })?;
        if ending.trim().is_empty() {
            return Err(RowProblem::Empty { field: "endings" });
        }
        let text = format::hellaswag(&context, ending);
        let answer = text[context.len()..].to_owned();
        Ok(Row { text, answer: Some(answer), ..Row::default() })
    }

    fn aime(self, fields: &Fields<'_>) -> Result<Row, RowProblem> {
        let problem = self.text(fields, &["Problem", "problem"])?;
        let solution = self.text(fields, &["Solution", "solution"])?;
        let text = format::aime(&problem, &solution);
        Ok(Row { text, answer: boxed_end(&solution).map(str::to_owned), ..Row::default() })
    }

    fn math(self, fields: &Fields<'_>, wanted: Option<u64>) -> Result<Option<Row>, RowProblem> {
        let label = fields.label("level")?.ok_or_else(|| self.missing(fields))?;
        // A few rows of the set are of "Level ?".
        let level: Option<u64> = label.trim_start_matches("Level").trim().parse().ok();
        if wanted.is_some() && wanted != level {
            return Ok(None);
        }
        let problem = self.text(fields, &["problem"])?;
        let solution = self.text(fields, &["solution"])?;
        let group = level.map_or_else(|| "level-unknown".to_owned(), |level| format!("level-{level}"));
        let text = format::math(&problem, &solution);
        Ok(Some(Row { text, answer: Some(format!(" {solution}")), group: Some(group), ..Row::default() }))
    }

    fn mquake(self, fields: &Fields<'_>, wanted: Option<u64>) -> Result<Option<Row>, RowProblem> {
        let hops = match fields.length("single_hops")? {
            Some(hops) => hops,
            None => fields.length("new_single_hops")?.ok_or_else(|| self.missing(fields))?,
        };
        if wanted.is_some_and(|wanted| usize::try_from(wanted) != Ok(hops)) {
            return Ok(None);
        }
        let questions = fields.strings("questions")?.ok_or_else(|| self.missing(fields))?;
        // The others say the same in other words.
        let question = questions.first().filter(|question| !question.trim().is_empty());
        let question = question.ok_or(RowProblem::Empty { field: "questions" })?;
        let answer = self.text(fields, &["answer"])?;
        let text = format::mquake(question, &answer);
        let group = Some(format!("hops-{hops}"));
        Ok(Some(Row { text, answer: Some(format!(" {answer}")), group, ..Row::default() }))
    }

    /// The text in the first of the fields that is there.
    fn text(self, fields: &Fields<'_>, names: &[&'static str]) -> Result<String, RowProblem> {
        let name = names.iter().find(|name| fields.has(name)).ok_or_else(|| self.missing(fields))?;
        match fields.string(name)? {
            Some(text) if text.trim().is_empty() => Err(RowProblem::Empty { field: name }),
            Some(text) => Ok(text),
            None => Err(self.missing(fields)),
        }
    }

    fn missing(self, fields: &Fields<'_>) -> RowProblem {
        RowProblem::MissingSetFields { set: self.name(), found: fields.found(), needs: self.needs() }
    }
}

/// The last box of a solution and what follows it, if nothing that says anything does.
fn boxed_end(solution: &str) -> Option<&str> {
    let end = &solution[solution.rfind(r"\boxed{")?..];
    let mut depth = 0usize;
    for (at, character) in end.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 1 => {
                let after = end[at..].chars().any(char::is_alphanumeric);
                return (!after).then_some(end);
            }
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}
