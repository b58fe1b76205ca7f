//! `egress policy learn`.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{CODES, Output, Stop, is_stdin, label, write};
use crate::document::{Mistake, Mistakes};
use crate::policy::{LearnOptions, Learner};

/// The most lines that are no records before the rest is not read.
const BROKEN: usize = 20;

/// Makes rules of the records of audit mode
///
/// What was allowed, and what would have been refused for want of a rule, becomes a list of
/// names for each workload. Where many names share a parent that belongs to one owner, a wildcard
/// takes their place, and says how many.
#[derive(Args)]
#[command(after_help = format!("\
Examples:
  sudo egress run --audit --log records.jsonl -- ./job
  egress policy learn records.jsonl > policy.yaml
  egress policy learn --label app agent.jsonl
  egress policy learn --wildcard-at 0 --everyone agent.jsonl gateway.jsonl

{CODES}"))]
pub(super) struct LearnArgs {
    /// Records, one JSON object a line; - for standard input
    #[arg(required = true, value_name = "RECORDS")]
    files: Vec<PathBuf>,

    /// How many names under one parent make a wildcard; 0 for none
    #[arg(long, value_name = "N", default_value_t = LearnOptions::default().wildcard_at)]
    wildcard_at: usize,

    /// Label by which workloads are told apart
    #[arg(long = "label", value_name = "KEY")]
    labels: Vec<String>,

    /// Makes rules for everyone, whoever connected
    #[arg(long)]
    everyone: bool,

    /// Form of the output
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl LearnArgs {
    pub(super) fn run(self) -> Result<ExitCode, Stop> {
        let mut learner = Learner::new(LearnOptions {
            wildcard_at: self.wildcard_at,
            labels: self.labels,
            for_everyone: self.everyone,
        });
        let mut mistakes = Vec::new();
        for file in &self.files {
            if let Err(error) = read(file, &mut learner, &mut mistakes) {
                let sentence = format!("cannot be read: {error}");
                mistakes.push(Mistake::new(label(file), sentence));
            }
        }
        Mistakes::check(mistakes)?;
        write(self.output, &learner.finish())?;
        Ok(ExitCode::SUCCESS)
    }
}

fn read(path: &Path, learner: &mut Learner, mistakes: &mut Vec<Mistake>) -> io::Result<()> {
    let reader: Box<dyn BufRead> = match is_stdin(path) {
        true => Box::new(io::stdin().lock()),
        false => Box::new(BufReader::new(File::open(path)?)),
    };
    for (number, line) in (1_u64..).zip(reader.lines()) {
        if let Err(error) = learner.line(&line?) {
            let place = format!("{}:{number}", label(path));
            mistakes.push(Mistake::new(place, format!("this is no record: {error}")));
        }
        if mistakes.len() >= BROKEN {
            break;
        }
    }
    Ok(())
}
