//! Rows of multiple choice: their fields, and the contexts and choices made from them.

use super::clean;
use crate::RowProblem;
use crate::rows::Fields;
use crate::schema::{FieldType, RowSchema};

/// The schema of rows of multiple choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChoiceSchema {
    HellaSwag,
    Arc,
    Mmlu,
    /// `context`, `choices` and `label`.
    Plain,
}

/// The content of a row.
#[derive(Debug)]
pub(super) struct ChoiceRow {
    pub(super) id: Option<String>,
    pub(super) context: String,
    pub(super) choices: Vec<String>,
    pub(super) label: usize,
    pub(super) group: Option<String>,
}

impl RowSchema for ChoiceSchema {
    fn columns(self) -> &'static [(&'static str, FieldType)] {
        use FieldType::{Label, Text, Texts};
        match self {
            Self::HellaSwag => &[
                ("id", Label),
                ("activity_label", Text),
                ("ctx_a", Text),
                ("ctx_b", Text),
                ("ctx", Text),
                ("endings", Texts),
                ("label", Label),
            ],
            Self::Arc => &[
                ("id", Label),
                ("question", Text),
                ("choices", Texts),
                ("choices.text", Texts),
                ("choices.label", Texts),
                ("answerKey", Label),
            ],
            Self::Mmlu => {
                &[("id", Label), ("question", Text), ("subject", Text), ("choices", Texts), ("answer", Label)]
            }
            Self::Plain => {
                &[("id", Label), ("context", Text), ("choices", Texts), ("label", Label), ("group", Label)]
            }
        }
    }

    fn is_complete(self, has: impl Fn(&str) -> bool) -> bool {
        let all = |names: &[&str]| names.iter().all(|name| has(name));
        match self {
            Self::HellaSwag => all(&["endings", "label"]) && (has("ctx") || all(&["ctx_a", "ctx_b"])),
            Self::Arc => {
                all(&["question", "answerKey"]) && (has("choices") || all(&["choices.text", "choices.label"]))
            }
            Self::Mmlu => all(&["question", "subject", "choices", "answer"]),
            Self::Plain => all(&["context", "choices", "label"]),
        }
    }

    fn set(self) -> Option<&'static str> {
        match self {
            Self::HellaSwag => Some("hellaswag"),
            Self::Arc => Some("arc"),
            Self::Mmlu => Some("mmlu"),
            Self::Plain => None,
        }
    }

    fn needs(self) -> &'static str {
        match self {
            Self::HellaSwag => "\"ctx_a\" and \"ctx_b\" (or \"ctx\"), \"endings\" and \"label\"",
            Self::Arc => "\"question\", \"choices\" with \"text\" and \"label\", and \"answerKey\"",
            Self::Mmlu => "\"question\", \"subject\", \"choices\" and \"answer\"",
            Self::Plain => "\"context\", \"choices\" and \"label\"",
        }
    }
}

impl ChoiceSchema {
    /// What a row of any schema needs, in words.
    pub(super) const ANY: &'static str = "\"context\", \"choices\" and \"label\", or the fields of hellaswag \
        (\"ctx_a\", \"ctx_b\", \"endings\", \"label\"), ARC (\"question\", \"choices\", \"answerKey\") or MMLU \
        (\"question\", \"subject\", \"choices\", \"answer\")";

    /// The schema of rows with these fields.
    pub(super) fn of(has: &dyn Fn(&str) -> bool) -> Option<Self> {
        [Self::HellaSwag, Self::Arc, Self::Mmlu, Self::Plain]
            .into_iter()
            .find(|schema| schema.is_complete(has))
    }

    /// The schema of a file of which this is the first row.
    pub(super) fn of_row(fields: &Fields) -> Result<Self, RowProblem> {
        let none = || RowProblem::NotChoices { found: fields.found(), needs: Self::ANY };
        Self::of(&|name| fields.has(name)).ok_or_else(none)
    }

    /// Reads a row.
    pub(super) fn row(self, fields: &Fields) -> Result<ChoiceRow, RowProblem> {
        let row = match self {
            Self::HellaSwag => self.hellaswag(fields)?,
            Self::Arc => self.arc(fields)?,
            Self::Mmlu => self.mmlu(fields)?,
            Self::Plain => self.plain(fields)?,
        };
        Ok(ChoiceRow { id: fields.label("id")?, ..row })
    }

    fn hellaswag(self, fields: &Fields) -> Result<ChoiceRow, RowProblem> {
        let halves = fields.string("ctx_a")?.zip(fields.string("ctx_b")?);
        let context = match halves {
            Some((first, second)) => format!("{first} {}", clean::capitalized(&second)),
            None => self.text(fields, "ctx")?,
        };
        let context = match fields.non_blank("activity_label")? {
            Some(activity) => format!("{activity}: {context}"),
            None => context,
        };
        let endings = fields.strings("endings")?.ok_or_else(|| self.missing(fields))?;
        let choices = checked(endings.iter().map(|ending| clean::hellaswag(ending)).collect(), "endings")?;
        let label = self.label(fields, "label", Numbering::From0, choices.len())?;
        Ok(ChoiceRow { id: None, context: clean::hellaswag(&context), choices, label, group: None })
    }

    fn arc(self, fields: &Fields) -> Result<ChoiceRow, RowProblem> {
        let question = self.text(fields, "question")?;
        let nested = fields.members("choices")?;
        let members = nested.as_ref().unwrap_or(fields);
        let labels = members.strings("choices.label")?;
        let texts = match &labels {
            Some(_) => members.strings("choices.text")?,
            None => members.strings("choices")?,
        };
        let choices = checked(texts.ok_or_else(|| self.missing(fields))?, "choices")?;
        let label = match labels {
            Some(labels) if labels.len() != choices.len() => {
                return Err(RowProblem::ChoiceLabels { choices: choices.len(), labels: labels.len() });
            }
            Some(labels) => {
                let key = fields.label("answerKey")?.ok_or_else(|| self.missing(fields))?;
                let found = labels.iter().position(|label| *label == key);
                found.ok_or_else(|| wrong_label("answerKey", &key, &labels.join(", ")))?
            }
            None => self.label(fields, "answerKey", Numbering::From1, choices.len())?,
        };
        let context = format!("Question: {question}\nAnswer:");
        Ok(ChoiceRow { id: None, context, choices, label, group: None })
    }

    fn mmlu(self, fields: &Fields) -> Result<ChoiceRow, RowProblem> {
        let (question, subject) = (self.text(fields, "question")?, self.text(fields, "subject")?);
        let texts = checked(fields.strings("choices")?.ok_or_else(|| self.missing(fields))?, "choices")?;
        let label = self.label(fields, "answer", Numbering::From0, texts.len())?;
        let lettered = || ('A'..='Z').zip(&texts);
        if texts.len() > 26 {
            return Err(RowProblem::TooManyChoices { field: "choices", count: texts.len() });
        }
        let about = subject.replace('_', " ");
        let listed: String = lettered().map(|(letter, text)| format!("{letter}. {text}\n")).collect();
        let context = format!(
            "The following are multiple choice questions (with answers) about {about}.\n\n{}\n{listed}Answer:",
            clean::strip(&question)
        );
        let choices = lettered().map(|(letter, _)| letter.to_string()).collect();
        Ok(ChoiceRow { id: None, context, choices, label, group: Some(subject) })
    }

    fn plain(self, fields: &Fields) -> Result<ChoiceRow, RowProblem> {
        let context = self.text(fields, "context")?;
        let choices = checked(fields.strings("choices")?.ok_or_else(|| self.missing(fields))?, "choices")?;
        let label = self.label(fields, "label", Numbering::From0, choices.len())?;
        Ok(ChoiceRow { id: None, context, choices, label, group: fields.label("group")? })
    }

    /// A text that must be there and not be blank.
    fn text(self, fields: &Fields, field: &'static str) -> Result<String, RowProblem> {
        let text = fields.string(field)?.ok_or_else(|| self.missing(fields))?;
        if clean::strip(&text).is_empty() { Err(RowProblem::Empty { field }) } else { Ok(text) }
    }

    /// The index of the right one of `count` choices, from a number or a letter.
    fn label(
        self,
        fields: &Fields,
        field: &'static str,
        numbering: Numbering,
        count: usize,
    ) -> Result<usize, RowProblem> {
        let label = fields.label(field)?.ok_or_else(|| self.missing(fields))?;
        let text = clean::strip(&label);
        let first = match numbering {
            Numbering::From0 => 0,
            Numbering::From1 => 1,
        };
        let letter = match text.as_bytes() {
            [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
            _ => None,
        };
        let number = || text.parse::<usize>().ok()?.checked_sub(first);
        letter.or_else(number).filter(|index| *index < count).ok_or_else(|| {
            let last = char::from(b'A' + u8::try_from(count.min(26) - 1).unwrap_or_default());
            wrong_label(field, text, &format!("{first} to {}, or A to {last}", first + count - 1))
        })
    }

    fn missing(self, fields: &Fields) -> RowProblem {
        RowProblem::NotChoices { found: fields.found(), needs: self.needs() }
    }
}

/// Where numbers of choices start.
#[derive(Debug, Clone, Copy)]
enum Numbering {
    From0,
    /// As in ARC, where some rows have 1 to 4 instead of letters.
    From1,
}

fn wrong_label(field: &'static str, label: &str, known: &str) -> RowProblem {
    let cut = |text: &str| text.chars().take(80).collect::<String>();
    RowProblem::WrongChoice { field, label: cut(label), known: cut(known) }
}

/// Choices, of which there are two or more and none is blank.
fn checked(choices: Vec<String>, field: &'static str) -> Result<Vec<String>, RowProblem> {
    if choices.len() < 2 {
        return Err(RowProblem::TooFewChoices { field, count: choices.len() });
    }
    match choices.iter().position(|choice| clean::strip(choice).is_empty()) {
        Some(blank) => Err(RowProblem::BlankChoice { field, number: blank + 1 }),
        None => Ok(choices),
    }
}
