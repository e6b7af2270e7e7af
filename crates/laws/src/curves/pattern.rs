//! Paths of files that say what a curve is of.

use crate::error::{Result, invalid};
use regex::Regex;

/// A path with named parts, such as `utd_{utd}/{env_name}/bs_{batch_size}.npy`. It fits the end of a path.
#[derive(Clone, Debug)]
pub struct Pattern {
    regex: Regex,
    names: Vec<String>,
}

/// The longest pattern.
const LONGEST: usize = 1000;

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for unpaired braces and names that occur twice or are none.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > LONGEST {
            invalid!("pattern: longer than {LONGEST} characters");
        }
        let (mut source, mut names) = ("(?:^|/)".to_owned(), Vec::<String>::new());
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('{') {
            let Some((name, behind)) = after.split_once('}') else {
                invalid!("pattern '{text}': a '{{' has no '}}'")
            };
            let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !is_name || names.iter().any(|other| other == name) {
                invalid!("pattern '{text}': '{{{name}}}' is not a name, or occurs twice");
            }
            source += &regex::escape(literal);
            source += "([^/]+?)";
            names.push(name.to_owned());
            rest = behind;
        }
        source += &regex::escape(rest);
        source.push('$');
        match Regex::new(&source) {
            Ok(regex) if !names.is_empty() => Ok(Self { regex, names }),
            Ok(_) => invalid!("pattern '{text}': it has no part in braces, such as {{utd}}"),
            Err(error) => invalid!("pattern '{text}': {error}"),
        }
    }

    /// The names of the parts, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The parts of a path, in the order of the names; `None` if it does not fit.
    pub fn read(&self, path: &str) -> Option<Vec<String>> {
        let captures = self.regex.captures(path)?;
        captures.iter().skip(1).map(|part| part.map(|part| part.as_str().to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_from_the_end_of_a_path() {
        let pattern = Pattern::parse("w{width}/utd_{utd}/{env}.npy").unwrap();
        assert_eq!(pattern.names(), ["width", "utd", "env"]);
        assert_eq!(pattern.read("a/b/w256/utd_1/h1-stand.v0.npy").unwrap(), ["256", "1", "h1-stand.v0"]);
        for other in ["w256/utd_1/x.npz", "xw256/utd_1/x.npy", "w256/utd_1/y/x.npy", ""] {
            assert_eq!(pattern.read(other), None, "{other}");
        }
    }

    #[test]
    fn patterns_that_are_none_are_refused() {
        for wrong in ["{a", "{}", "{a}{a}", "plain.npy", "{a b}"] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
        // Characters with a meaning to regular expressions stand for themselves.
        assert!(Pattern::parse("a.b+({x})").unwrap().read("a.b+(7)").is_some());
        assert!(Pattern::parse("a.b{x}").unwrap().read("aXb7").is_none());
    }
}
