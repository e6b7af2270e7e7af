//! Study tables as Markdown.

use super::VERDICTS;
use crate::tables::{JobRow, Tables, View};
use fathom_results::text::clean;

impl Tables {
    /// All tables and answers as Markdown.
    pub fn markdown(&self) -> String {
        let table = |rows: &[usize]| {
            let rows: Vec<Vec<String>> = rows.iter().map(|i| self.line(&self.rows[*i])).collect();
            aligned_table(&self.heading(), &rows)
        };
        let all: Vec<usize> = (0..self.rows.len()).collect();
        let mut out = format!("# {}\n\n{}\n\n{}", clean(&self.name), self.caption(), table(&all));
        for View { question, groups } in &self.views {
            out += &format!("\n## By {}\n", question.name());
            for group in groups {
                out += &format!("\n### {}\n\n{}", clean(&group.title), table(&group.rows));
            }
        }
        if !self.jobs.is_empty() {
            let heading = JobRow::HEADING.map(str::to_owned);
            let rows: Vec<Vec<String>> = self.jobs.iter().map(JobRow::line).collect();
            out += &format!("\n## Beside measurements\n\n{}", aligned_table(&heading, &rows));
        }
        for answer in &self.answers {
            out += &format!("\n## {}\n\n{}\n", answer.about, answer.summary);
            let list = |primary: bool| -> String {
                answer.sentences(primary).map(|sentence| format!("- {}\n", clean(sentence))).collect()
            };
            let (tested, others) = (list(true), list(false));
            if !tested.is_empty() {
                out += &format!("\n{tested}\n{VERDICTS}\n");
            }
            if !others.is_empty() {
                out += &format!("\nBy the other rules:\n\n{others}");
            }
        }
        out
    }
}

/// A Markdown table with aligned columns, so that it also reads as plain text. Short rows are padded.
pub(super) fn aligned_table(heading: &[String], rows: &[Vec<String>]) -> String {
    let escape = |cell: &String| clean(cell).replace('|', "\\|");
    let lines: Vec<Vec<String>> = std::iter::once(heading)
        .chain(rows.iter().map(Vec::as_slice))
        .map(|line| line.iter().map(escape).collect())
        .collect();
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(|column| width(column).max(3)).collect();
    let mut out = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells = widths.iter().enumerate().map(|(column, &width)| {
            let cell = line.get(column).map_or("", String::as_str);
            format!(" {cell:width$} |")
        });
        out.push('|');
        out.extend(cells);
        out.push('\n');
        if number == 0 {
            out.push('|');
            out.extend(widths.iter().map(|width| format!("{}|", "-".repeat(width + 2))));
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up_and_keeps_its_columns() {
        let rows = [vec!["a|b".into(), "1".into()], vec!["\x1b[2J".into()]];
        let table = aligned_table(&["name".into(), "value".into()], &rows);
        assert_eq!(table, "| name | value |\n|------|-------|\n| a\\|b | 1     |\n| ?[2J |       |\n");
    }
}
