//! Errors of single rows.

use thiserror::Error;

/// Why a row is invalid.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RowProblem {
    /// The line or paragraph is too long.
    #[error("longer than {bytes} bytes; split it, or check that its lines end in line feeds")]
    TooLong {
        /// The largest accepted length.
        bytes: usize,
    },
    /// The bytes are not valid UTF-8.
    #[error("not valid UTF-8 from byte {byte} on; save the file as UTF-8")]
    Utf8 {
        /// The first wrong byte of the line, from 1.
        byte: usize,
    },
    /// A sequence of a FASTA file has no header.
    #[error("residues before the first header; begin each record with a line of `>` and a name")]
    NoHeader,
    /// A character of a FASTA file is not a residue.
    #[error("{character:?} is not a residue; sequences are letters, `*`, `-` and `.`")]
    NotAResidue {
        /// The character.
        character: char,
    },
    /// The line is not JSON.
    #[error("column {column}: invalid JSON ({message}); every line must be one JSON object")]
    Json {
        /// The character in the line, from 1.
        column: usize,
        /// The message of the parser.
        message: String,
    },
    /// The line is JSON, but not an object.
    #[error("the line holds {found}, but every line must be one JSON object")]
    NotAnObject {
        /// Its type.
        found: &'static str,
    },
    /// A row lacks the fields of a prompt.
    #[error("found {found}, but a row needs \"text\", or \"question\" and \"answer\"")]
    MissingFields {
        /// The present fields, in words.
        found: String,
    },
    /// A row lacks the fields of a published set.
    #[error("found {found}, but a row of {set} needs {needs}; name the set that the file belongs to")]
    MissingSetFields {
        /// The set.
        set: &'static str,
        /// The present fields, in words.
        found: String,
        /// The required fields, in words.
        needs: &'static str,
    },
    /// An answer of GSM8K has no mark before its final answer.
    #[error("\"answer\" has no `####` before the final answer, as answers of gsm8k have; add it")]
    NoMark,
    /// The label of a row of HellaSwag names none of its endings.
    #[error("\"label\" is not the number, from 0, of one of the {endings} endings; correct it")]
    Label {
        /// The number of endings.
        endings: usize,
    },
    /// A row lacks the fields of multiple choice.
    #[error("found {found}, but a row of multiple choice needs {needs}")]
    NotChoices {
        /// The present fields, in words.
        found: String,
        /// The required fields, in words.
        needs: &'static str,
    },
    /// The right choice of a row is none of its choices.
    #[error(
        "\"{field}\" is {label:?}, which is none of the choices ({known}); correct it or remove the line"
    )]
    WrongChoice {
        /// The field.
        field: &'static str,
        /// Its value.
        label: String,
        /// The labels of the choices, in words.
        known: String,
    },
    /// A row has one choice or none.
    #[error(
        "\"{field}\" has {count} of the two or more choices that a row needs; add some or remove the line"
    )]
    TooFewChoices {
        /// The field.
        field: &'static str,
        /// The number of choices.
        count: usize,
    },
    /// A row whose choices are letters has more than there are letters.
    #[error("\"{field}\" has {count} choices, but only 26 letters name them; remove the line")]
    TooManyChoices {
        /// The field.
        field: &'static str,
        /// The number of choices.
        count: usize,
    },
    /// A choice is blank.
    #[error("choice {number} in \"{field}\" is blank; fill it in or remove the line")]
    BlankChoice {
        /// The field.
        field: &'static str,
        /// The choice, from 1.
        number: usize,
    },
    /// The choices of a row of ARC and their labels are not equally many.
    #[error("\"choices\" has {choices} texts but {labels} labels; each text needs one")]
    ChoiceLabels {
        /// The number of texts.
        choices: usize,
        /// The number of labels.
        labels: usize,
    },
    /// A field is of the wrong type.
    #[error("the field \"{field}\" is {found}, but it must be {wanted}")]
    WrongType {
        /// The field.
        field: &'static str,
        /// Its type.
        found: &'static str,
        /// The required type.
        wanted: &'static str,
    },
    /// A field holds a number that JSON does not allow.
    #[error("the field \"{field}\" holds NaN or an infinity; write a number or null")]
    NotFinite {
        /// The field.
        field: &'static str,
    },
    /// A field is an invalid string.
    #[error("the field \"{field}\" is not a valid string: {message}; correct its escapes")]
    BadString {
        /// The field.
        field: &'static str,
        /// The message of the parser.
        message: String,
    },
    /// A required field is empty.
    #[error("\"{field}\" is empty; fill it in or remove the line")]
    Empty {
        /// The field.
        field: &'static str,
    },
    /// Nothing comes before the answer.
    #[error("there is no question before the answer; add one")]
    NoQuestion,
    /// The text does not end with the answer.
    #[error(
        "\"text\" does not end with \"answer\"; end it with exactly the answer, or leave one of them out"
    )]
    AnswerNotAtEnd,
    /// Two prompts have the same id.
    #[error("line {first} has the id \"{id}\" too; ids must differ")]
    DuplicateId {
        /// The id.
        id: String,
        /// The first line with this id.
        first: usize,
    },
}
