//! kube-proxy's flags, made of the table. What is not given stays unset, so that `--config` can tell.

use std::collections::BTreeMap;

use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches, parser::ValueSource};

use super::{FIELDS, Field, Kind};

/// The flags that were given.
#[derive(Clone, Debug, Default)]
pub struct ProxyFlags {
    given: BTreeMap<&'static str, String>,
    own: Vec<OwnFlag>,
}

/// A flag that kube-proxy does not have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnFlag {
    /// Its name, without dashes.
    pub name: String,
    /// Its values, joined by commas.
    pub value: String,
    /// By the user; else it is the default.
    pub is_given: bool,
}

impl ProxyFlags {
    /// What the flag of a field holds.
    pub fn get(&self, field: &Field) -> Option<&str> {
        self.given.get(field.flag).map(String::as_str)
    }

    /// The other flags of the command line.
    pub fn own(&self) -> &[OwnFlag] {
        &self.own
    }

    /// As if they had been given.
    #[cfg(test)]
    pub fn with(mut self, flag: &'static str, value: &str) -> Self {
        self.given.insert(flag, value.to_owned());
        self
    }
}

/// One field for each flag: the first that has it.
fn flags() -> impl Iterator<Item = &'static Field> {
    let is_first = |index: usize, field: &Field| {
        let mut earlier = FIELDS.iter().take(index);
        !field.flag.is_empty() && !earlier.any(|other| other.flag == field.flag)
    };
    let all = FIELDS.iter().enumerate();
    all.filter(move |(index, field)| is_first(*index, field))
        .map(|(_, field)| field)
}

fn arg(field: &'static Field) -> Arg {
    let kind = field.kind;
    let value = match field.value {
        "" => kind.value_name(),
        value => value,
    };
    let arg = Arg::new(field.flag)
        .long(field.flag)
        .value_name(value)
        .help(field.help)
        .help_heading(field.heading)
        .allow_negative_numbers(true)
        .value_parser(move |text: &str| {
            kind.check(text)
                .map_err(|expected| format!("it must be {expected}"))
        });
    let arg = if field.flag.len() == 1 {
        arg.short(field.flag.chars().next())
    } else {
        arg
    };
    let arg = if field.alias.is_empty() {
        arg
    } else {
        arg.visible_alias(field.alias)
    };
    match kind {
        Kind::Bool => arg.num_args(0..=1).default_missing_value("true"),
        Kind::Text
        | Kind::OneOf(_)
        | Kind::Ip
        | Kind::Int(..)
        | Kind::Number
        | Kind::Duration
        | Kind::Period
        | Kind::List
        | Kind::Gates
        | Kind::Any => arg,
    }
}

impl Args for ProxyFlags {
    fn augment_args(command: Command) -> Command {
        flags().fold(command, |command, field| command.arg(arg(field)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ProxyFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let value = |field: &'static Field| {
            let value = matches.get_one::<String>(field.flag)?;
            Some((field.flag, value.clone()))
        };
        Ok(Self {
            given: flags().filter_map(value).collect(),
            own: own(matches),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Everything else that has a value, groups left out.
fn own(matches: &ArgMatches) -> Vec<OwnFlag> {
    let is_proxys = |id: &str| FIELDS.iter().any(|field| field.flag == id);
    let ids = matches.ids().map(clap::Id::as_str);
    ids.filter(|id| !is_proxys(id) && id.starts_with(char::is_lowercase))
        .filter_map(|id| {
            let raw = matches.try_get_raw(id).ok().flatten()?;
            let values: Vec<_> = raw.map(|value| value.to_string_lossy()).collect();
            Some(OwnFlag {
                name: id.replace('_', "-"),
                value: values.join(","),
                is_given: matches.value_source(id) == Some(ValueSource::CommandLine),
            })
        })
        .collect()
}
