//! Prompt templates of arXiv 2512.14064.
//!
//! Fields are inserted as they are, without trimming.

/// A GSM8K prompt: the problem, the rationale and the final answer.
///
/// The rationale is everything before the mark of the final answer, including its line feed.
pub fn gsm8k(problem: &str, rationale: &str, answer: &str) -> String {
    let ending = "The final answer is [answer]";
    format!("{}{rationale}The final answer is {answer}", task(problem, ending))
}

/// An AIME prompt: the problem and a solution that gives its answer in a box.
pub fn aime(problem: &str, solution: &str) -> String {
    format!("{}{solution}", task(problem, r"\boxed{[answer]}"))
}

/// An arithmetic task without its result, which follows the final space.
pub fn arithmetic(left: i64, operator: char, right: i64) -> String {
    format!("Give the answer directly: {left} {operator} {right} = ")
}

/// A HellaSwag prompt: a context and the ending that fits it.
///
/// An ending that starts with a comma follows the context without a space.
pub fn hellaswag(context: &str, ending: &str) -> String {
    let space = if ending.starts_with(',') { "" } else { " " };
    format!("{context}{space}{ending}")
}

/// A MATH prompt: the problem and its solution.
pub fn math(problem: &str, solution: &str) -> String {
    format!("Problem: {problem}\nAnswer: {solution}")
}

/// An MQuAKE prompt: the question and its answer.
pub fn mquake(question: &str, answer: &str) -> String {
    format!("Question: {question}\nAnswer: {answer}")
}

fn task(problem: &str, ending: &str) -> String {
    format!(
        "Given the following problem, reason and give a final answer to the problem.\n\
         Problem: {problem}\n\
         Your response should end with \"{ending}\" where [answer] is the response to the problem.\n\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gsm8k_template() {
        let wanted = "Given the following problem, reason and give a final answer to the problem.\nProblem: Q?\nYour response should end with \"The final answer is [answer]\" where [answer] is the response to the problem.\n\nR.\nThe final answer is 7";
        assert_eq!(gsm8k("Q?", "R.\n", "7"), wanted);
    }

    #[test]
    fn aime_template() {
        let wanted = "Given the following problem, reason and give a final answer to the problem.\nProblem: Q?\nYour response should end with \"\\boxed{[answer]}\" where [answer] is the response to the problem.\n\nS \\boxed{7}";
        assert_eq!(aime("Q?", r"S \boxed{7}"), wanted);
    }

    #[test]
    fn arithmetic_template() {
        assert_eq!(arithmetic(12, '+', 3), "Give the answer directly: 12 + 3 = ");
    }

    #[test]
    fn hellaswag_template() {
        assert_eq!(hellaswag("A man sits. he", "stands up."), "A man sits. he stands up.");
        assert_eq!(hellaswag("A man sits", ", then stands."), "A man sits, then stands.");
    }

    #[test]
    fn math_and_mquake_templates() {
        assert_eq!(math("P?", "S $1$."), "Problem: P?\nAnswer: S $1$.");
        assert_eq!(mquake("Q?", "A"), "Question: Q?\nAnswer: A");
    }
}
