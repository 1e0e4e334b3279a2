//! What a field may hold: checked where it is read, and kept as the text that its flag would have.

use std::{net::IpAddr, time::Duration};

use serde_json::{Map, Value, json};

use super::super::args::parse_duration;

const BOOLS: [(&str, bool); 12] = [
    ("true", true),
    ("True", true),
    ("TRUE", true),
    ("t", true),
    ("T", true),
    ("1", true),
    ("false", false),
    ("False", false),
    ("FALSE", false),
    ("f", false),
    ("F", false),
    ("0", false),
];

/// The type of a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Any text.
    Text,
    /// One of these, in any case.
    OneOf(&'static [&'static str]),
    /// One IP address.
    Ip,
    /// A switch.
    Bool,
    /// A whole number in a range.
    Int(i64, i64),
    /// A number with a fraction.
    Number,
    /// A duration that may be 0.
    Duration,
    /// A duration above 0.
    Period,
    /// Texts; joined by commas in a flag.
    List,
    /// Names with switches: `A=true,B=false` in a flag.
    Gates,
    /// Anything: nobody looks at it.
    Any,
}

impl Kind {
    /// For the help of a flag.
    pub const fn value_name(self) -> &'static str {
        match self {
            Self::Text | Self::Any => "TEXT",
            Self::OneOf(_) => "NAME",
            Self::Ip => "ADDR",
            Self::Bool => "BOOL",
            Self::Int(..) | Self::Number => "N",
            Self::Duration | Self::Period => "DURATION",
            Self::List | Self::Gates => "LIST",
        }
    }

    /// The text in its usual form.
    ///
    /// # Errors
    /// What it must be instead.
    pub fn check(self, text: &str) -> Result<String, String> {
        let checked = match self {
            Self::Text | Self::List | Self::Any => Some(text.to_owned()),
            Self::OneOf(names) => {
                let same = |name: &&&str| name.eq_ignore_ascii_case(text);
                names.iter().find(same).map(|name| (*name).to_owned())
            }
            Self::Ip => text.parse::<IpAddr>().ok().map(|ip| ip.to_string()),
            Self::Bool => boolean(text).map(|on| on.to_string()),
            Self::Int(lo, hi) => {
                let number = text.parse::<i64>().ok();
                let number = number.filter(|n| (lo..=hi).contains(n));
                number.map(|n| n.to_string())
            }
            Self::Number => {
                let number = text.parse::<f64>().ok();
                number.filter(|n| n.is_finite()).map(|n| n.to_string())
            }
            Self::Duration => parse_duration(text).ok().map(|_| text.to_owned()),
            Self::Period => {
                let period = parse_duration(text).ok();
                period.filter(|p| !p.is_zero()).map(|_| text.to_owned())
            }
            Self::Gates => gates(text).map(|_| text.to_owned()),
        };
        checked.ok_or_else(|| self.expected())
    }

    /// What it must be.
    pub fn expected(self) -> String {
        match self {
            Self::Text => "a string".to_owned(),
            Self::OneOf(names) => {
                let named: Vec<_> = names.iter().filter(|name| !name.is_empty()).collect();
                let named: Vec<String> = named.iter().map(|name| (**name).to_string()).collect();
                format!("one of {}", named.join(", "))
            }
            Self::Ip => "an IP address".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::Int(lo, hi) => format!("a whole number from {lo} to {hi}"),
            Self::Number => "a number".to_owned(),
            Self::Duration => "a duration such as 30s, 5m or 1h30m".to_owned(),
            Self::Period => "a duration above 0, such as 30s, 5m or 1h30m".to_owned(),
            Self::List => "a list of strings".to_owned(),
            Self::Gates => "names with true or false".to_owned(),
            Self::Any => "anything".to_owned(),
        }
    }

    /// A value of the file as its flag's text; `None`: it is of another type.
    pub fn text_of(self, value: &Value) -> Option<String> {
        match self {
            Self::Text | Self::OneOf(_) | Self::Ip | Self::Duration | Self::Period => {
                value.as_str().map(str::to_owned)
            }
            Self::Bool => value.as_bool().map(|on| on.to_string()),
            Self::Int(..) => value.as_i64().map(|n| n.to_string()),
            Self::Number => value.as_f64().map(|n| n.to_string()),
            Self::List => {
                let items = value.as_array()?.iter().map(Value::as_str);
                Some(items.collect::<Option<Vec<_>>>()?.join(","))
            }
            Self::Gates => {
                let gate =
                    |(name, on): (&String, &Value)| Some(format!("{name}={}", on.as_bool()?));
                let gates = value.as_object()?.iter().map(gate);
                Some(gates.collect::<Option<Vec<_>>>()?.join(","))
            }
            Self::Any => Some(match value {
                Value::String(text) => text.clone(),
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::Array(_)
                | Value::Object(_) => value.to_string(),
            }),
        }
    }

    /// The other way: a text as the file has it.
    pub fn value_of(self, text: &str) -> Value {
        match self {
            Self::Text | Self::OneOf(_) | Self::Ip | Self::Duration | Self::Period => json!(text),
            Self::Bool => boolean(text).map_or(Value::Null, Value::Bool),
            Self::Int(..) => text.parse::<i64>().map_or(Value::Null, |n| json!(n)),
            Self::Number => text.parse::<f64>().map_or(Value::Null, |n| json!(n)),
            Self::List => json!(items(text).collect::<Vec<_>>()),
            Self::Gates => {
                let gates = gates(text).unwrap_or_default().into_iter();
                let named: Map<String, Value> = gates
                    .map(|(name, on)| (name.to_owned(), on.into()))
                    .collect();
                Value::Object(named)
            }
            Self::Any => serde_json::from_str(text).unwrap_or_else(|_| match text {
                "" => Value::Null,
                text => json!(text),
            }),
        }
    }
}

/// As Go reads switches.
pub fn boolean(text: &str) -> Option<bool> {
    let found = BOOLS.iter().find(|(name, _)| *name == text);
    found.map(|(_, on)| *on)
}

/// A checked duration.
pub fn duration(text: &str) -> Duration {
    parse_duration(text).unwrap_or_default()
}

/// What stands between the commas.
pub fn items(list: &str) -> impl Iterator<Item = &str> {
    let items = list.split(',').map(str::trim);
    items.filter(|item| !item.is_empty())
}

/// `None`: one is not NAME=BOOL.
pub fn gates(list: &str) -> Option<Vec<(&str, bool)>> {
    let gate = |item: &'_ str| -> Option<(usize, bool)> {
        let (name, on) = item.split_once('=')?;
        Some((name.len(), boolean(on)?))
    };
    let read = items(list).map(|item| gate(item).map(|(len, on)| (&item[..len], on)));
    read.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_takes_what_it_may_hold_and_nothing_else() {
        let table: [(Kind, &[&str], &[&str]); 8] = [
            (Kind::OneOf(&["", "ipvs"]), &["", "ipvs", "IPVS"], &["x"]),
            (Kind::Ip, &["0.0.0.0", "::1"], &["", "eth0", "10.0.0.0/8"]),
            (Kind::Bool, &["true", "0", "F"], &["", "yes"]),
            (Kind::Int(0, 31), &["0", "31"], &["32", "-1", "x", ""]),
            (Kind::Number, &["5", "-1", "0.5"], &["", "x", "NaN", "inf"]),
            (Kind::Duration, &["0", "0s", "1h0m0s"], &["", "5", "-5s"]),
            (Kind::Period, &["1s", "24h0m0s"], &["0", "0s", "-1s"]),
            (Kind::Gates, &["", "A=true, B=F"], &["A", "A=x"]),
        ];
        for (kind, good, bad) in table {
            for text in good {
                assert!(kind.check(text).is_ok(), "{kind:?} {text}");
            }
            for text in bad {
                assert!(kind.check(text).is_err(), "{kind:?} {text}");
            }
        }
    }

    #[test]
    fn a_value_of_the_file_and_the_text_of_its_flag_are_the_same() {
        for (kind, value, text) in [
            (Kind::Text, json!("a"), "a"),
            (Kind::Bool, json!(true), "true"),
            (Kind::Int(0, 9), json!(7), "7"),
            (Kind::Number, json!(0.5), "0.5"),
            (Kind::Duration, json!("1m0s"), "1m0s"),
            (Kind::List, json!(["a", "b"]), "a,b"),
            (
                Kind::Gates,
                json!({"A": true, "B": false}),
                "A=true,B=false",
            ),
            (Kind::Any, json!([{"a": 1}]), "[{\"a\":1}]"),
        ] {
            assert_eq!(kind.text_of(&value).as_deref(), Some(text), "{kind:?}");
            assert_eq!(kind.value_of(text), value, "{kind:?}");
        }
    }
}
