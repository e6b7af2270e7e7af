//! Study tables as LaTeX.

use super::VERDICTS;
use crate::tables::{Group, Tables, View};
use fathom_results::text::clean;

impl Tables {
    /// All tables and answers as LaTeX, for a document that loads booktabs and graphicx.
    pub fn latex(&self) -> String {
        let all = Group { title: String::new(), rows: (0..self.rows.len()).collect() };
        let mut out = "% \\usepackage{booktabs,graphicx}\n".to_owned();
        out += &self.latex_table("All cells.", std::slice::from_ref(&all));
        for View { question, groups } in &self.views {
            out += &self.latex_table(&format!("By {}.", question.name()), groups);
        }
        for answer in &self.answers {
            let (about, summary) = (escape(&answer.about), escape(&answer.summary));
            out += &format!("\n\\paragraph{{{about}}} {summary}\n");
            if answer.comparisons.is_empty() {
                continue;
            }
            let list = |primary: bool| -> String {
                answer.sentences(primary).map(|sentence| format!("\\item {}\n", escape(sentence))).collect()
            };
            let (tested, others) = (list(true), list(false));
            out += &format!("\\begin{{itemize}}\n{tested}\\end{{itemize}}\n{}\n", escape(VERDICTS));
            if !others.is_empty() {
                out += &format!("By the other rules:\n\\begin{{itemize}}\n{others}\\end{{itemize}}\n");
            }
        }
        out
    }

    fn latex_table(&self, title: &str, groups: &[Group]) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| escape(cell)).collect();
            format!("{} \\\\\n", cells.join(" & "))
        };
        let columns = 4 + self.rules.len();
        let mut out = format!(
            "\n\\begin{{table}}\n\\caption{{{title} {}}}\n\\resizebox{{\\linewidth}}{{!}}{{%\n\\begin{{tabular}}{{llrr{}}}\n\\toprule\n",
            escape(&self.caption()),
            "l".repeat(self.rules.len())
        );
        out += &line(&self.heading());
        for Group { title, rows } in groups {
            out += "\\midrule\n";
            if !title.is_empty() {
                out += &format!("\\multicolumn{{{columns}}}{{l}}{{\\emph{{{}}}}} \\\\\n", escape(title));
            }
            for row in rows {
                out += &line(&self.line(&self.rows[*row]));
            }
        }
        out + "\\bottomrule\n\\end{tabular}}\n\\end{table}\n"
    }
}

/// Escapes text for LaTeX's text mode.
fn escape(text: &str) -> String {
    let mut out = String::new();
    let text: Vec<char> = clean(text).chars().collect();
    for (i, &c) in text.iter().enumerate() {
        let after = |known: &[char]| i.checked_sub(1).is_none_or(|before| known.contains(&text[before]));
        let minus = || after(&[' ', '[']) && text.get(i + 1).is_some_and(char::is_ascii_digit);
        match c {
            '-' if minus() => out.push_str("$-$"),
            '\\' => out.push_str(r"\textbackslash{}"),
            '~' => out.push_str(r"\textasciitilde{}"),
            '^' => out.push_str(r"\textasciicircum{}"),
            '<' => out.push_str(r"\textless{}"),
            '>' => out.push_str(r"\textgreater{}"),
            '|' => out.push_str(r"\textbar{}"),
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            // After `\\`, LaTeX would read a bracket as an optional argument.
            '[' => out.push_str("{[}"),
            ']' => out.push_str("{]}"),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latex_is_escaped() {
        assert_eq!(escape(r"a_b & 5% \x {~}"), r"a\_b \& 5\% \textbackslash{}x \{\textasciitilde{}\}");
        assert_eq!(escape("[-16, 18] of f-16 - -2"), "{[}$-$16, 18{]} of f-16 - $-$2");
    }
}
