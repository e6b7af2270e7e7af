//! Sums with short and with long solutions, as tokens.
//!
//! A prompt is `37+45=`. The short solution is the answer, `:82.`; the long one adds digit by digit from the right, carries
//! included, before it: `7+5+0=12,3+4+1=8:82.`.

use crate::random::uniform;
use rand_chacha::ChaCha8Rng;

/// The characters, by token.
const CHARACTERS: &[u8; 15] = b"0123456789+=,:.";
/// The number of tokens.
pub(crate) const VOCABULARY: usize = CHARACTERS.len();
/// The token that ends a solution, and fills up a batch.
pub(crate) const END: u32 = 14;

/// A sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    a: u64,
    b: u64,
}

impl Problem {
    /// Two numbers of as many digits, from `least` to `most`, each number of digits as likely; leading zeros may occur.
    pub(crate) fn random([least, most]: [u32; 2], random: &mut ChaCha8Rng) -> Self {
        let below = |limit: u64, random: &mut ChaCha8Rng| (uniform(random) * limit as f64) as u64;
        let digits = least + below(u64::from(most - least + 1), random) as u32;
        let limit = 10u64.pow(digits);
        Self { a: below(limit, random), b: below(limit, random) }
    }

    pub(crate) fn prompt(&self) -> Vec<u32> {
        tokens(&format!("{}+{}=", self.a, self.b))
    }

    pub(crate) fn short(&self) -> Vec<u32> {
        tokens(&format!(":{}.", self.a + self.b))
    }

    pub(crate) fn long(&self) -> Vec<u32> {
        let (mut a, mut b, mut carry) = (self.a, self.b, 0);
        let mut columns = Vec::new();
        while columns.is_empty() || a + b > 0 {
            let sum = a % 10 + b % 10 + carry;
            columns.push(format!("{}+{}+{carry}={sum}", a % 10, b % 10));
            (a, b, carry) = (a / 10, b / 10, sum / 10);
        }
        tokens(&format!("{}:{}.", columns.join(","), self.a + self.b))
    }

    /// Whether what follows the last colon is the answer and the end.
    pub(crate) fn is_solved_by(&self, solution: &[u32]) -> bool {
        let colon = solution.iter().rposition(|token| *token == tokens(":")[0]);
        colon.is_some_and(|colon| solution[colon..] == self.short())
    }
}

/// The most tokens of a prompt with a solution.
pub(crate) fn longest(digits: u32) -> usize {
    let most = 10u64.pow(digits) - 1;
    let problem = Problem { a: most, b: most };
    problem.prompt().len() + problem.long().len()
}

fn tokens(text: &str) -> Vec<u32> {
    let token = |byte: u8| CHARACTERS.iter().position(|c| *c == byte).expect("a character of a sum") as u32;
    text.bytes().map(token).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    fn text(tokens: &[u32]) -> String {
        tokens.iter().map(|token| char::from(CHARACTERS[*token as usize])).collect()
    }

    #[test]
    fn solutions_are_answers_or_columns() {
        let problem = Problem { a: 37, b: 45 };
        let all = [problem.prompt(), problem.short(), problem.long()].map(|tokens| text(&tokens));
        assert_eq!(all, ["37+45=", ":82.", "7+5+0=12,3+4+1=8:82."]);
        assert_eq!(text(&Problem { a: 0, b: 0 }.long()), "0+0+0=0:0.");
        assert_eq!(text(&Problem { a: 95, b: 7 }.long()), "5+7+0=12,9+0+1=10:102.");
        assert!(problem.is_solved_by(&problem.long()) && problem.is_solved_by(&problem.short()));
        for wrong in [":83.", ":82", ":", "82.", ":82.:8.", "", ":082."] {
            assert!(!problem.is_solved_by(&tokens(wrong)), "{wrong}");
        }
        assert_eq!(tokens(".")[0], END);
    }

    #[test]
    fn random_sums_have_the_digits_asked_for() {
        let mut random = stream(1, 0);
        let problems: Vec<Problem> = (0..500).map(|_| Problem::random([1, 2], &mut random)).collect();
        assert!(problems.iter().all(|problem| problem.a < 100 && problem.b < 100));
        let small = problems.iter().filter(|problem| problem.a < 10 && problem.b < 10).count();
        assert!((200..330).contains(&small), "{small}");
        let most = problems.iter().map(|p| p.prompt().len() + p.long().len()).max().unwrap();
        assert!(most <= longest(2) && longest(2) == "99+99=9+9+0=18,9+9+1=19:198.".len());
    }
}
