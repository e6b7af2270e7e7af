//! Errors of single rows.

use thiserror::Error;

/// What is wrong with a line of a file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RowProblem {
    /// The line or paragraph is too long.
    #[error("longer than {bytes} bytes; split it, or check that its lines end in line feeds")]
    TooLong {
        /// The greatest length that is read.
        bytes: usize,
    },
    /// The bytes are not text.
    #[error("not valid UTF-8 from byte {byte} on; save the file as UTF-8")]
    Utf8 {
        /// The first wrong byte of the line, from 1.
        byte: usize,
    },
    /// The line is not JSON.
    #[error("column {column}: invalid JSON ({message}); every line must be one JSON object")]
    Json {
        /// The character of the line, from 1.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// The line is JSON, but not an object.
    #[error("the line holds {found}, but every line must be one JSON object")]
    NotAnObject {
        /// What it is.
        found: &'static str,
    },
    /// The fields that make a prompt are not there.
    #[error("found {found}, but a row needs \"text\", or \"question\" and \"answer\"")]
    MissingFields {
        /// The fields that are there, in words.
        found: String,
    },
    /// The fields that a row of a published set has are not there.
    #[error("found {found}, but a row of {set} needs {needs}; name the set that the file belongs to")]
    MissingSetFields {
        /// The set.
        set: &'static str,
        /// The fields that are there, in words.
        found: String,
        /// The fields that are needed, in words.
        needs: &'static str,
    },
    /// An answer of GSM8K does not say what the final answer is.
    #[error("\"answer\" has no `####` in front of the final answer, as answers of gsm8k have; put it there")]
    NoMark,
    /// The label of a row of HellaSwag names none of its endings.
    #[error("\"label\" is not the number, from 0, of one of the {endings} endings; correct it")]
    Label {
        /// How many endings there are.
        endings: usize,
    },
    /// A field is of the wrong type.
    #[error("the field \"{field}\" is {found}, but it must be {wanted}")]
    WrongType {
        /// The field.
        field: &'static str,
        /// What it is.
        found: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
    /// A field holds something that JSON does not know.
    #[error("the field \"{field}\" holds NaN or an infinity; write a number or null")]
    NotFinite {
        /// The field.
        field: &'static str,
    },
    /// A field is a string that is no text.
    #[error("the field \"{field}\" is not a valid string: {message}; correct its escapes")]
    BadString {
        /// The field.
        field: &'static str,
        /// What the parser says.
        message: String,
    },
    /// A field that must say something is empty.
    #[error("\"{field}\" is empty; fill it in or remove the line")]
    Empty {
        /// The field.
        field: &'static str,
    },
    /// Nothing comes before the answer.
    #[error("nothing stands before the answer; put a question there")]
    NoQuestion,
    /// Both the text and the answer are given, but they do not fit.
    #[error(
        "\"text\" does not end with \"answer\"; end it with exactly the answer, or leave one of them out"
    )]
    AnswerNotAtEnd,
    /// Two prompts have the same id.
    #[error("the id \"{id}\" is already that of line {first}; ids must differ")]
    DuplicateId {
        /// The id.
        id: String,
        /// The line that has it already.
        first: usize,
    },
}
