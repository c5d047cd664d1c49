//! `incept completions` and `incept man`

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::{Shell, generate};
use incept::Error;
use incept::low_level::output::check_folder;
use incept::low_level::output::write_atomically;
use serde::Serialize;

use super::report::{Reporter, shown};
use super::{Cli, Outcome, Result};

/// Print a shell completion script.
///
/// Example: `incept completions bash > ~/.local/share/bash-completion/completions/incept`
#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// Shell.
    shell: ShellName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ShellName {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

#[derive(Serialize)]
struct CompletionsResult<'a> {
    script: &'a str,
}

impl Completions {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        let shell = match self.shell {
            ShellName::Bash => Shell::Bash,
            ShellName::Elvish => Shell::Elvish,
            ShellName::Fish => Shell::Fish,
            ShellName::Powershell => Shell::PowerShell,
            ShellName::Zsh => Shell::Zsh,
        };
        let mut script = Vec::new();
        generate(shell, &mut Cli::command(), "incept", &mut script);
        let script = String::from_utf8_lossy(&script);
        reporter.line(script.trim_end())?;
        reporter.event(&CompletionsResult { script: &script })?;
        Ok(Outcome::Done)
    }
}

/// Write man pages for `incept` and each of its commands.
///
/// Example: `incept man --output ~/.local/share/man/man1`, then `man incept-train`
#[derive(Args, Debug)]
pub(crate) struct Man {
    /// Folder to write to.
    #[arg(short = 'o', long = "output", alias = "out", value_name = "FOLDER", default_value = "man")]
    out: PathBuf,
}

#[derive(Serialize)]
struct ManResult<'a> {
    output: &'a Path,
    pages: Vec<String>,
}

impl Man {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        check_folder(&self.out)?;
        let mut pages = Vec::new();
        let mut command = Cli::command();
        // Propagates global options to subcommands.
        command.build();
        self.write(&command, &mut pages)?;
        reporter.line(&format!("wrote {} man pages to {}", pages.len(), shown(&self.out)))?;
        reporter.event(&ManResult { output: &self.out, pages })?;
        Ok(Outcome::Done)
    }

    fn write(&self, command: &clap::Command, pages: &mut Vec<String>) -> incept::Result<()> {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_string();
        let path = self.out.join(format!("{name}.1"));
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(command.clone()).render(&mut page);
        rendered.map_err(|e| Error::io(&path, e))?;
        write_atomically(&path, &page)?;
        pages.push(name);
        let commands = command.get_subcommands().filter(|c| c.get_name() != "help");
        commands.into_iter().try_for_each(|command| self.write(command, pages))
    }
}
