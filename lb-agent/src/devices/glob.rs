//! Names with `*` and `?`, as `--devices` and `--pod-devices` take them.

/// Does `name` match? `*` is any number of characters, `?` is one.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => name.is_empty(),
        Some('*') => {
            let after = rest.as_str();
            name.char_indices()
                .map(|(at, _)| at)
                .chain([name.len()])
                .any(|at| matches(after, name.get(at..).unwrap_or_default()))
        }
        Some(wanted) => {
            let mut left = name.chars();
            left.next()
                .is_some_and(|found| wanted == '?' || wanted == found)
                && matches(rest.as_str(), left.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth*", "eth0.100", true),
            ("eth*", "veth0", false),
            ("*", "", true),
            ("e?h*0", "eth10", true),
            ("e?h", "eh", false),
            ("*-mgmt", "bond-mgmt", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
