//! Who answered, as a bar with a piece for each pod.

use std::collections::BTreeMap;
use std::io::IsTerminal;

/// How often each pod answered.
pub(super) type Answers = BTreeMap<String, usize>;

/// Characters of a whole bar.
const WIDTH: usize = 32;
/// One colour for each pod, from the terminal's own palette.
const COLOURS: [&str; 4] = ["36", "35", "33", "32"];

/// The pods in the order of their colours, each column as wide as its name.
#[derive(Debug)]
pub(super) struct Legend {
    pods: Vec<String>,
    has_colour: bool,
}

impl Legend {
    pub(super) fn new(pods: impl IntoIterator<Item = String>) -> Self {
        let is_wanted = std::env::var_os("NO_COLOR").is_none();
        Self {
            pods: pods.into_iter().collect(),
            has_colour: is_wanted && std::io::stdout().is_terminal(),
        }
    }

    /// The heading of [`Legend::row`].
    pub(super) fn heading(&self) -> String {
        let names = self.pods.iter().enumerate();
        let names = names.map(|(index, pod)| format!("{:>7}", self.paint(index, pod, 7)));
        format!("{:<WIDTH$}{}", "who answered", names.collect::<String>())
    }

    /// The bar and the number of each pod.
    pub(super) fn row(&self, answers: &Answers) -> String {
        let counts: Vec<usize> = self
            .pods
            .iter()
            .map(|pod| answers.get(pod).copied().unwrap_or(0))
            .collect();
        let numbers = counts.iter().map(|count| match count {
            0 => format!("{:>7}", "·"),
            count => format!("{count:>7}"),
        });
        format!("{}{}", self.bar(&counts), numbers.collect::<String>())
    }

    fn bar(&self, counts: &[usize]) -> String {
        let mut bar = String::new();
        for (index, length) in pieces(counts, WIDTH).into_iter().enumerate() {
            // Without colours the pod's own number tells the pieces apart.
            let mark = if self.has_colour {
                "█".to_owned()
            } else {
                (index % 10).to_string()
            };
            bar += &self.paint(index, &mark.repeat(length), 0);
        }
        if counts.iter().all(|count| *count == 0) {
            bar = format!("{:<WIDTH$}", "nobody");
        }
        bar
    }

    fn paint(&self, index: usize, text: &str, width: usize) -> String {
        let text = format!("{text:>width$}");
        if !self.has_colour || text.is_empty() {
            return text;
        }
        format!("\x1b[{}m{text}\x1b[0m", COLOURS[index % COLOURS.len()])
    }
}

/// Splits `width` in proportion to `counts`, to the last character: each piece ends where the sum so far, rounded
/// down, does. All nought if nobody answered.
fn pieces(counts: &[usize], width: usize) -> Vec<usize> {
    let total: usize = counts.iter().sum();
    if total == 0 {
        return vec![0; counts.len()];
    }
    let (mut sum, mut drawn) = (0, 0);
    let mut pieces = Vec::new();
    for count in counts {
        sum += count;
        let end = sum * width / total;
        pieces.push(end - drawn);
        drawn = end;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_always_fill_the_bar() {
        for counts in [vec![1, 1, 1], vec![67, 0, 133], vec![0, 0, 1], vec![200]] {
            assert_eq!(
                pieces(&counts, WIDTH).iter().sum::<usize>(),
                WIDTH,
                "{counts:?}"
            );
        }
    }

    #[test]
    fn who_did_not_answer_has_no_piece() {
        assert_eq!(pieces(&[3, 0, 1], 8), [6, 0, 2]);
        assert_eq!(pieces(&[0, 0], 8), [0, 0]);
    }

    #[test]
    fn a_row_without_colours_names_pods_by_number() {
        let legend = Legend {
            pods: vec!["web-0".into(), "web-1".into()],
            has_colour: false,
        };
        let answers = Answers::from([("web-0".to_owned(), 30), ("web-1".to_owned(), 10)]);
        let row = legend.row(&answers);
        assert_eq!(
            row,
            format!("{}{}     30     10", "0".repeat(24), "1".repeat(8))
        );
    }
}
