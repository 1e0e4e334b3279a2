//! The results: a table for the terminal, JSON to compare with, markdown to keep.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;
use xtask::say;

use crate::stats::Summary;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    pub unit: &'static str,
    #[serde(flatten)]
    pub value: Summary,
    /// At least (true) or at most this much is aimed at.
    pub target: Option<(bool, f64)>,
    pub note: String,
}

impl Row {
    /// Of the values of rounds; `None` without any.
    pub fn of(
        name: String,
        unit: &'static str,
        values: &[f64],
        target: Option<(bool, f64)>,
        note: String,
    ) -> Option<Self> {
        Some(Self {
            name,
            unit,
            value: Summary::of(values)?,
            target,
            note,
        })
    }

    fn number(&self, value: f64) -> String {
        match self.unit {
            "" => format!("{value:.3}"),
            "us" => format!("{value:.1}"),
            _ => format!("{value:.0}"),
        }
    }

    fn target(&self) -> String {
        match self.target {
            None => String::new(),
            Some((true, least)) => format!(">= {}", self.number(least)),
            Some((false, most)) => format!("<= {}", self.number(most)),
        }
    }

    /// Nothing is asserted: the word is for the eye.
    fn verdict(&self) -> &'static str {
        match self.target {
            None => "",
            Some((true, least)) if self.value.median >= least => "met",
            Some((false, most)) if self.value.median <= most => "met",
            Some(_) => "missed",
        }
    }

    fn cells(&self) -> [String; 9] {
        let Summary {
            median,
            low,
            high,
            min,
            max,
            rounds,
        } = self.value;
        let is_single = rounds == 1;
        let range = |a, b| match is_single {
            true => String::new(),
            false => format!("{} .. {}", self.number(a), self.number(b)),
        };
        [
            self.name.clone(),
            self.number(median),
            self.unit.to_owned(),
            range(low, high),
            range(min, max),
            rounds.to_string(),
            self.target(),
            self.verdict().to_owned(),
            self.note.clone(),
        ]
    }
}

const HEAD: [&str; 9] = [
    "what",
    "median",
    "",
    "95 % of the median",
    "min .. max",
    "rounds",
    "target",
    "",
    "note",
];

/// A table of rows under a heading.
#[derive(Clone, Debug, Serialize)]
pub struct Section {
    pub title: &'static str,
    pub rows: Vec<Row>,
}

/// All of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub sections: Vec<Section>,
    /// What could not be measured, and why.
    pub missing: Vec<String>,
}

/// Where it was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub kernel: String,
    pub cpu: String,
    pub cores: usize,
    pub jit: String,
    pub load_before: String,
    pub load_after: String,
}

impl Machine {
    pub fn here() -> Self {
        let read = |path: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.trim().to_owned()
        };
        let info = read("/proc/cpuinfo");
        let model = info.lines().find(|line| line.starts_with("model name"));
        let cpu = model
            .and_then(|line| line.split_once(": "))
            .map(|(_, cpu)| cpu.to_owned());
        Self {
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: cpu.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            jit: match read("/proc/sys/net/core/bpf_jit_enable").as_str() {
                "0" => "off".to_owned(),
                _ => "on".to_owned(),
            },
            load_before: load(),
            load_after: String::new(),
        }
    }

    fn line(&self) -> String {
        format!(
            "Linux {}, {}, {} cores, BPF JIT {}, load {} before, {} after",
            self.kernel, self.cpu, self.cores, self.jit, self.load_before, self.load_after
        )
    }
}

/// Runnable processes of the last minute: what else the machine did.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

impl Report {
    pub fn print(&self) {
        for section in &self.sections {
            say::heading(section.title);
            let cells: Vec<_> = section.rows.iter().map(Row::cells).collect();
            let head = HEAD.map(str::to_owned);
            let widths: Vec<usize> = (0..HEAD.len())
                .map(|column| {
                    let of =
                        |row: &[String; 9]| row.get(column).map_or(0, |cell| cell.chars().count());
                    cells.iter().chain([&head]).map(of).max().unwrap_or(0)
                })
                .collect();
            for row in std::iter::once(&head).chain(&cells) {
                let mut line = String::new();
                for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                    let gap = width.saturating_sub(cell.chars().count());
                    let (left, right) = if (1..=1).contains(&column) || column == 5 {
                        (gap, 0)
                    } else {
                        (0, gap)
                    };
                    line.push_str(&" ".repeat(left));
                    line.push_str(cell);
                    line.push_str(&" ".repeat(right + 2));
                }
                say::line(line.trim_end());
            }
        }
        say::line("");
        for missing in &self.missing {
            say::line(format!("not measured: {missing}"));
        }
        say::line(self.machine.line());
    }

    /// Writes `<name>.json` and `<name>.md`.
    pub fn write(&self, dir: &Path, name: &str) -> Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let write = |ending: &str, text: &str| {
            let path = dir.join(format!("{name}.{ending}"));
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))
        };
        write("json", &serde_json::to_string_pretty(self)?)?;
        write("md", &self.markdown()?)
    }

    fn markdown(&self) -> Result<String> {
        let mut text = format!("{}.\n", self.machine.line());
        for section in &self.sections {
            writeln!(text, "\n## {}\n\n| {} |", section.title, HEAD.join(" | "))?;
            writeln!(text, "|{}", "---|".repeat(HEAD.len()))?;
            for row in &section.rows {
                writeln!(text, "| {} |", row.cells().join(" | "))?;
            }
        }
        for missing in &self.missing {
            writeln!(text, "\nNot measured: {missing}.")?;
        }
        Ok(text)
    }
}
