//! The text format that kube-proxy serves and that every tool reads, made from OpenMetrics: there a counter's name is
//! told without `_total`, and the page ends with a word.

/// The same page in version 0.0.4.
pub(super) fn older(page: &str) -> String {
    let mut lines = page.lines().peekable();
    let mut text = String::with_capacity(page.len());
    while let Some(line) = lines.next() {
        if line.starts_with("# EOF") || line.starts_with("# UNIT ") {
            continue;
        }
        match line.strip_prefix("# HELP ") {
            Some(help) => {
                let is_counter = lines.peek().is_some_and(|next| counter(next).is_some());
                let (name, help) = help.split_once(' ').unwrap_or((help, ""));
                let suffix = if is_counter { "_total" } else { "" };
                text += &format!("# HELP {name}{suffix} {help}\n");
            }
            None => match counter(line) {
                Some(name) => text += &format!("# TYPE {name}_total counter\n"),
                None => text += &format!("{line}\n"),
            },
        }
    }
    text
}

/// The name, where the line says that something is a counter.
fn counter(line: &str) -> Option<&str> {
    line.strip_prefix("# TYPE ")?.strip_suffix(" counter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_have_their_whole_name_and_the_end_is_not_told() {
        let page = "# HELP a Some a.\n# TYPE a counter\na_total{b=\"c\"} 1\n# HELP g_total Some g.\n# TYPE g_total gauge\n# UNIT g_total seconds\ng_total 2\n# EOF\n";
        assert_eq!(
            older(page),
            "# HELP a_total Some a.\n# TYPE a_total counter\na_total{b=\"c\"} 1\n# HELP g_total Some g.\n# TYPE g_total gauge\ng_total 2\n"
        );
    }
}
