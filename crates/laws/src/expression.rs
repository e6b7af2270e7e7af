//! Expressions over named variables, with derivatives.
//!
//! Parsing, evaluation and derivatives are those of `exmex`. Before, the text is split into tokens, so that names mean
//! variables only (`e` and `E` too), and what readers and parsers understand differently is refused: `-x^2`, `x^y^z`.

use crate::error::{Error, Result};
use exmex::prelude::*;

/// An expression.
#[derive(Clone, Debug)]
pub struct Expression {
    text: String,
    function: FlatEx<f64>,
}

/// The functions of an expression.
pub const FUNCTIONS: [&str; 8] = ["ln", "log2", "log10", "exp", "sqrt", "sin", "cos", "tanh"];

/// The longest expression, and the most parentheses inside each other.
const LONGEST: usize = 1000;
const DEEPEST: usize = 50;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Number(String),
    Variable(String),
    Function(String),
    Operator(char),
    Open,
    Close,
}

impl Expression {
    /// Reads an expression of numbers, names, `+ - * / ^`, parentheses and [`FUNCTIONS`]. A name with other characters
    /// than letters, digits and `_` stands in braces.
    ///
    /// # Errors
    /// [`Error::Expression`] says what is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let fail = |problem: String| Error::Expression { expression: shortened(text), problem };
        if text.len() > LONGEST {
            return Err(fail(format!("longer than {LONGEST} characters")));
        }
        let tokens = tokens(text).map_err(fail)?;
        check(&tokens).map_err(fail)?;
        let written: Vec<String> = tokens.iter().map(Token::written).collect();
        let function = FlatEx::parse(&written.join(" ")).map_err(|e| fail(e.msg().to_owned()))?;
        Ok(Self { text: text.trim().to_owned(), function })
    }

    /// The expression as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The names of its variables, in the order in which [`value`](Self::value) takes them.
    pub fn variables(&self) -> &[String] {
        self.function.var_names()
    }

    /// The value; NaN where there is none.
    pub fn value(&self, variables: &[f64]) -> f64 {
        self.function.eval(variables).unwrap_or(f64::NAN)
    }

    /// The derivative by a variable of this index, with the same variables.
    ///
    /// # Errors
    /// [`Error::Expression`] if it cannot be taken.
    pub fn derivative(&self, index: usize) -> Result<Self> {
        let fail = |problem: String| Error::Expression { expression: shortened(&self.text), problem };
        let function = self.function.clone().partial(index).map_err(|e| fail(e.msg().to_owned()))?;
        if function.var_names() != self.variables() {
            return Err(fail("its derivative has other variables".to_owned()));
        }
        Ok(Self { text: format!("derivative of {}", self.text), function })
    }
}

fn shortened(text: &str) -> String {
    let clean: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    if text.trim().chars().count() > 200 { clean + ".." } else { clean }
}

impl Token {
    fn written(&self) -> String {
        match self {
            Self::Number(text) | Self::Function(text) => text.clone(),
            Self::Variable(name) => format!("{{{name}}}"),
            Self::Operator(c) => c.to_string(),
            Self::Open => "(".to_owned(),
            Self::Close => ")".to_owned(),
        }
    }

    /// Whether an operand ends here.
    fn ends_operand(&self) -> bool {
        matches!(self, Self::Number(_) | Self::Variable(_) | Self::Close)
    }
}

fn tokens(text: &str) -> std::result::Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let length = match first {
            '0'..='9' | '.' => {
                let length = number_length(rest);
                let value: f64 =
                    rest[..length].parse().map_err(|_| format!("'{}' is not a number", &rest[..length]))?;
                if !value.is_finite() {
                    return Err(format!("'{}' is too large", &rest[..length]));
                }
                // All digits: the parser knows no exponents of ten.
                tokens.push(Token::Number(format!("{value}")));
                length
            }
            '{' => {
                let end = rest.find('}').ok_or("a '{' has no '}'")?;
                let name = &rest[1..end];
                if name.is_empty() || name.contains('{') || name.chars().any(char::is_control) {
                    return Err(format!("'{{{name}}}' is not a name"));
                }
                tokens.push(Token::Variable(name.to_owned()));
                end + 1
            }
            c if c.is_alphabetic() || c == '_' => {
                let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
                let (name, behind) = rest.split_at(length);
                let is_call = behind.trim_start().starts_with('(');
                tokens.push(match (is_call, FUNCTIONS.contains(&name)) {
                    (true, true) => Token::Function(name.to_owned()),
                    (false, false) => Token::Variable(name.to_owned()),
                    (false, true) => return Err(format!("write '{name}(..)' with parentheses")),
                    (true, false) => {
                        return Err(format!(
                            "there is no function '{name}'; there are {}",
                            FUNCTIONS.join(", ")
                        ));
                    }
                });
                length
            }
            '+' | '-' | '*' | '/' | '^' => {
                tokens.push(Token::Operator(first));
                1
            }
            '(' => {
                tokens.push(Token::Open);
                1
            }
            ')' => {
                tokens.push(Token::Close);
                1
            }
            other => return Err(format!("the character '{}' has no meaning", other.escape_default())),
        };
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

/// The length of a number such as `1.5e-3` at the beginning of a text.
fn number_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |mut at: usize| {
        while at < bytes.len() && (bytes[at].is_ascii_digit() || bytes[at] == b'.') {
            at += 1;
        }
        at
    };
    let end = digits(0);
    let exponent = bytes.get(end).is_some_and(|b| matches!(b, b'e' | b'E'));
    let sign = usize::from(exponent && bytes.get(end + 1).is_some_and(|b| matches!(b, b'+' | b'-')));
    let after = end + 1 + sign;
    if exponent && bytes.get(after).is_some_and(u8::is_ascii_digit) { digits(after) } else { end }
}

/// Refuses what is not an expression, and what could be understood in two ways.
fn check(tokens: &[Token]) -> std::result::Result<(), String> {
    if tokens.is_empty() {
        return Err("it is empty".to_owned());
    }
    let mut open = 0_usize;
    for (index, token) in tokens.iter().enumerate() {
        let last = index.checked_sub(1).map(|before| &tokens[before]);
        let after_operand = last.is_some_and(Token::ends_operand);
        match token {
            Token::Number(_) | Token::Variable(_) | Token::Function(_) if after_operand => {
                return Err(format!("an operator is missing before '{}'", token.written()));
            }
            Token::Open if after_operand => return Err("an operator is missing before '('".to_owned()),
            Token::Close if !after_operand => return Err("a value is missing before ')'".to_owned()),
            Token::Operator(sign) if !after_operand => {
                let doubled = matches!(last, Some(Token::Operator('+' | '-')));
                if !matches!(sign, '+' | '-') || doubled {
                    return Err(format!("a value is missing before '{sign}'"));
                }
            }
            _ => {}
        }
        open = match token {
            Token::Open => open + 1,
            Token::Close => open.checked_sub(1).ok_or("a ')' has no '('")?,
            _ => open,
        };
        if open > DEEPEST {
            return Err(format!("more than {DEEPEST} parentheses inside each other"));
        }
    }
    if open > 0 {
        return Err("a '(' has no ')'".to_owned());
    }
    if !tokens[tokens.len() - 1].ends_operand() {
        return Err("a value is missing at its end".to_owned());
    }
    check_powers(tokens)
}

/// Refuses `-x^2`, which is `(-x)^2` to some and `-(x^2)` to others, and `x^y^z`.
fn check_powers(tokens: &[Token]) -> std::result::Result<(), String> {
    for (index, _) in tokens.iter().enumerate().filter(|(_, token)| **token == Token::Operator('^')) {
        // The operand before it begins here.
        let mut start = index - 1;
        if tokens[start] == Token::Close {
            let mut open = 1;
            while open > 0 {
                start -= 1;
                match tokens[start] {
                    Token::Open => open -= 1,
                    Token::Close => open += 1,
                    _ => {}
                }
            }
            if start > 0 && matches!(tokens[start - 1], Token::Function(_)) {
                start -= 1;
            }
        }
        let Some(before) = start.checked_sub(1) else { continue };
        let is_sign = matches!(tokens[before], Token::Operator('+' | '-'))
            && !before.checked_sub(1).is_some_and(|one| tokens[one].ends_operand());
        if is_sign {
            return Err("write -(x^2) or (-x)^2 instead of -x^2".to_owned());
        }
        if tokens[before] == Token::Operator('^') {
            return Err("write x^(y^z) or (x^y)^z instead of x^y^z".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;
    use proptest::prelude::*;

    fn value(text: &str, variables: &[(&str, f64)]) -> f64 {
        let expression = Expression::parse(text).unwrap();
        let of = |name: &String| variables.iter().find(|(n, _)| n == name).expect("a value").1;
        expression.value(&expression.variables().iter().map(of).collect::<Vec<f64>>())
    }

    #[test]
    fn values_are_those_of_the_formula() {
        let (x, y): (f64, f64) = (1.7, 0.4);
        let cases = [
            ("x - y - 1 + 2", x - y - 1.0 + 2.0),
            ("x / y * 3 / 2", x / y * 3.0 / 2.0),
            ("x - y * 2 ^ 3", x - y * 8.0),
            ("x ^ -y", x.powf(-y)),
            ("x * -y", x * -y),
            ("-(x ^ 2) + 1.5e-3", -(x * x) + 1.5e-3),
            ("(-x) ^ 2", x * x),
            ("x ^ (y ^ 2)", x.powf(y * y)),
            ("2e2 / x", 200.0 / x),
            ("1e300 * x", 1e300 * x),
            ("1e-12 * x", 1e-12 * x),
            ("ln(x) * log10(x) + log2(y) - exp(y) / sqrt(x)", {
                x.ln() * x.log10() + y.log2() - y.exp() / x.sqrt()
            }),
            ("ln(x) ^ 2", x.ln() * x.ln()),
            ("sin(x) + cos(y) + tanh(x*y)", x.sin() + y.cos() + (x * y).tanh()),
            ("x - (y - (x - y))", x - (y - (x - y))),
            ("2 - x + y", 2.0 - x + y),
            ("-x + y", -x + y),
            ("x / (y * 2) / x", x / (y * 2.0) / x),
        ];
        for (text, expected) in cases {
            assert_relative_eq!(value(text, &[("x", x), ("y", y)]), expected, max_relative = 1e-14);
        }
        // Names that other parsers know as constants, and names in braces.
        assert_eq!(
            value("E + e * {a b-c} + PI", &[("E", 1.0), ("e", 2.0), ("a b-c", 3.0), ("PI", 4.0)]),
            11.0
        );
    }

    #[test]
    fn derivatives_are_those_of_differences() {
        let text = "c / x ^ a + l0 + exp(a * ln(c)) / sqrt(x) - tanh(a) + cos(c) * sin(a) + log10(c)";
        let expression = Expression::parse(text).unwrap();
        let at: Vec<f64> = (0..expression.variables().len()).map(|i| 0.7 + 0.45 * i as f64).collect();
        for index in 0..at.len() {
            let derivative = expression.derivative(index).unwrap();
            let (mut low, mut high) = (at.clone(), at.clone());
            low[index] -= 1e-6;
            high[index] += 1e-6;
            let numeric = (expression.value(&high) - expression.value(&low)) / 2e-6;
            assert_relative_eq!(derivative.value(&at), numeric, max_relative = 1e-7);
        }
    }

    #[test]
    fn what_is_unclear_is_refused() {
        let cases = [
            ("-x^2", "-(x^2)"),
            ("1 - (-x^2)", "-(x^2)"),
            ("-ln(x)^2", "-(x^2)"),
            ("-(x)^2", "-(x^2)"),
            ("x^y^2", "x^(y^z)"),
            ("x^(2)^y", "x^(y^z)"),
            ("2x", "operator is missing"),
            ("x y", "operator is missing"),
            ("x (y)", "no function 'x'"),
            ("(x)(y)", "operator is missing"),
            ("log(x)", "no function 'log'"),
            ("ln x", "with parentheses"),
            ("x +", "missing at its end"),
            ("* x", "missing before '*'"),
            ("x -- y", "missing before '-'"),
            ("x ** y", "missing before '*'"),
            ("()", "missing before ')'"),
            ("(x", "has no ')'"),
            ("x)", "has no '('"),
            ("", "empty"),
            ("x % y", "no meaning"),
            ("{}", "not a name"),
            ("{x", "no '}'"),
            ("1e999", "too large"),
            ("1.2.3", "not a number"),
        ];
        for (text, expected) in cases {
            let error = Expression::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(Expression::parse(&"(".repeat(60)).is_err());
        assert!(Expression::parse(&"x+".repeat(600)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[-x1e.+*/^(){} lnsqrt_]{0,40}") {
            if let Ok(expression) = Expression::parse(&text) {
                let at = vec![1.5; expression.variables().len()];
                let _ = expression.value(&at);
                for index in 0..at.len() {
                    let _ = expression.derivative(index).map(|d| d.value(&at));
                }
            }
        }

        /// Against an evaluation by hand of the same random tree.
        #[test]
        fn random_trees_have_their_value(tree in tree()) {
            let (text, expected) = tree;
            let found = value(&text, &[("x", 1.3), ("y", 0.6)]);
            prop_assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{text}: {found} {expected}");
        }
    }

    /// An expression with its value at x = 1.3, y = 0.6. Parentheses stand only where the usual rules need them.
    fn tree() -> impl Strategy<Value = (String, f64)> {
        let leaf = prop_oneof![
            Just(("x".to_owned(), 1.3)),
            Just(("y".to_owned(), 0.6)),
            (1..9_u32).prop_map(|n| (n.to_string(), f64::from(n))),
        ];
        // (text, value, precedence): 3 an atom, 2 a product, 1 a sum.
        let leaf = leaf.prop_map(|(text, value)| (text, value, 3));
        let wrap = |(text, _, own): &(String, f64, u8), least: u8| {
            if *own < least { format!("({text})") } else { text.clone() }
        };
        leaf.prop_recursive(4, 24, 2, move |inner| {
            (inner.clone(), inner, 0..4_u8).prop_map(move |(a, b, operator)| match operator {
                0 => (format!("{} + {}", wrap(&a, 1), wrap(&b, 1)), a.1 + b.1, 1),
                1 => (format!("{} - {}", wrap(&a, 1), wrap(&b, 2)), a.1 - b.1, 1),
                2 => (format!("{} * {}", wrap(&a, 2), wrap(&b, 2)), a.1 * b.1, 2),
                _ if b.1.abs() < 1e-3 => (wrap(&a, 0), a.1, a.2),
                _ => (format!("{} / {}", wrap(&a, 2), wrap(&b, 3)), a.1 / b.1, 2),
            })
        })
        .prop_map(|(text, value, _)| (text, value))
    }
}
