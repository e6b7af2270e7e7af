//! Sums and products of random numbers, as in arXiv 2512.14064.
//!
//! For each example the left operand is drawn first, then the right one, both with
//! `randint(10^(digits-1), 10^digits - 1)`.

use crate::stream::PromptStream;
use crate::{DataError, Options, Prompt, Rng, templates};

/// The parameters of a spec.
pub(crate) const PARAMETERS: &[&str] = &["digits", "count", "seed"];

/// The default number of examples.
pub(crate) const COUNT: usize = 100;

const DIGITS: u32 = 6;

/// Operands are drawn as 64-bit integers; results are computed with 128 bits.
const MAX_DIGITS: u64 = 18;

/// A million examples are some hundred megabytes, far more than any run can use.
const MAX_COUNT: u64 = 1_000_000;

/// The operation on the two numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation {
    Addition,
    Multiplication,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Addition => "addition",
            Self::Multiplication => "multiplication",
        }
    }

    fn symbol(self) -> char {
        match self {
            Self::Addition => '+',
            Self::Multiplication => '*',
        }
    }

    fn apply(self, left: i64, right: i64) -> i128 {
        let (left, right) = (i128::from(left), i128::from(right));
        match self {
            Self::Addition => left + right,
            Self::Multiplication => left * right,
        }
    }
}

/// Opens a set, which is generated on demand. `parameters` are the names and values in the spec.
pub(crate) fn open(
    operation: Operation,
    parameters: &[(&str, &str)],
    options: &Options,
) -> Result<PromptStream, DataError> {
    let mut recipe = Recipe { operation, digits: DIGITS, count: COUNT, seed: options.seed, rng: options.rng };
    for &(name, value) in parameters {
        recipe.set(name, value)?;
    }
    Ok(PromptStream::new(&recipe.id(), recipe.source(), recipe.prompts()))
}

#[derive(Debug)]
struct Recipe {
    operation: Operation,
    digits: u32,
    count: usize,
    seed: u64,
    rng: Rng,
}

impl Recipe {
    fn set(&mut self, name: &str, value: &str) -> Result<(), DataError> {
        let set = self.operation.name();
        let number = |low, high| match value.parse() {
            Ok(number) if (low..=high).contains(&number) => Ok(number),
            _ => Err(DataError::ParameterValue {
                set,
                name: name.to_owned(),
                value: value.to_owned(),
                low,
                high,
            }),
        };
        match name {
            "digits" => self.digits = number(1, MAX_DIGITS)? as u32,
            "count" => self.count = number(1, MAX_COUNT)? as usize,
            "seed" => self.seed = number(0, u64::MAX)?,
            _ => {
                let name = name.to_owned();
                return Err(DataError::UnknownParameter { set, name, known: PARAMETERS });
            }
        }
        Ok(())
    }

    /// The name of the operation and the parameters that are not defaults.
    fn id(&self) -> String {
        let mut id = self.operation.name().to_owned();
        if self.digits != DIGITS {
            id += &format!("-digits{}", self.digits);
        }
        if self.count != COUNT {
            id += &format!("-count{}", self.count);
        }
        if self.seed != Options::SEED {
            id += &format!("-seed{}", self.seed);
        }
        if self.rng != Rng::default() {
            id += &format!("-{}", self.rng);
        }
        id
    }

    fn source(&self) -> String {
        let Self { operation, digits, count, seed, rng } = self;
        format!("generated: {}, digits {digits}, count {count}, seed {seed}, rng {rng}", operation.name())
    }

    fn prompts(&self) -> impl Iterator<Item = Prompt> + use<> {
        let Self { operation, digits, .. } = *self;
        let mut random = self.rng.seeded(self.seed);
        let (low, high) = (10i64.pow(digits - 1), 10i64.pow(digits) - 1);
        let prompt = move |number| {
            let (left, right) = (random.randint(low, high), random.randint(low, high));
            let answer = operation.apply(left, right).to_string();
            Prompt {
                id: format!("{}-{number}", operation.name()),
                text: templates::arithmetic(left, operation.symbol(), right) + &answer,
                answer: Some(answer),
                positions: None,
                group: Some(format!("digits-{digits}")),
            }
        };
        (1..=self.count).map(prompt)
    }
}
