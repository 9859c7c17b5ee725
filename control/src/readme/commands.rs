//! Commands and their flags.

use clap::{Command, CommandFactory, Parser};

use super::{README, Table, codes, same};
use crate::cli::Cli;

#[test]
fn every_command_has_a_place_in_the_readme() {
    let table = Table::of("Commands", "command");
    let all = Cli::command();
    let (mut said, mut of_ca) = (Vec::new(), Vec::new());
    for row in &table.rows {
        let mut here = Vec::new();
        for code in codes(row[0]) {
            let mut words = code.split(' ').peekable();
            let is_whole = words.next_if_eq(&"lighter").is_some();
            let Some(name) = words.next().filter(|name| !name.starts_with("--")) else { continue };
            match here.last() {
                _ if name == "lighter-proxy" => continue,
                Some(&"ca") if !is_whole => of_ca.push(name),
                _ => here.push(name),
            }
            of_ca.extend(words.next().filter(|_| name == "ca"));
        }
        let flags = row.iter().flat_map(|cell| codes(cell)).flat_map(|code| code.split([' ', '[', ']']));
        for flag in flags.filter(|word| word.starts_with("--") && word.len() > 2) {
            let mut commands = here.iter().filter_map(|name| all.find_subcommand(name));
            assert!(here.is_empty() || commands.any(|command| knows(command, flag)), "{row:?}: no {flag}");
        }
        said.extend(here);
    }
    let of = |command: &Command| -> Vec<String> {
        let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
        shown.map(|command| command.get_name().to_owned()).collect()
    };
    same("commands", said, of(&all).iter().map(String::as_str));
    let ca = all.find_subcommand("ca").unwrap();
    same("commands of `lighter ca`", of_ca, of(ca).iter().map(String::as_str));
}

#[test]
fn every_command_line_of_the_readme_is_understood() {
    let mut seen = 0;
    for line in lines(true).filter_map(|line| line.strip_prefix("$ ")) {
        for words in commands(line) {
            if words.first().is_some_and(|word| word == "lighter") {
                // A variable stands for a name that is as good as its own.
                let parsed = Cli::try_parse_from(words.iter().map(|word| word.replace('$', "")));
                assert!(parsed.is_ok(), "{line}\n{}", parsed.unwrap_err());
                seen += 1;
            }
        }
    }
    assert!(seen > 30, "{seen} command lines were found");
}

#[test]
fn every_command_that_the_readme_speaks_of_is_there() {
    let all = Cli::command();
    let mut seen = 0;
    for line in lines(false) {
        for code in codes(line) {
            let mut words = code.split([' ', '[', ']']).filter(|word| !word.is_empty()).peekable();
            if words.next() != Some("lighter") {
                continue;
            }
            let Some(name) = words.next().filter(|name| !name.starts_with('-')) else { continue };
            let command = all.find_subcommand(name);
            let mut command = command.unwrap_or_else(|| panic!("`{code}`: there is no command {name}"));
            if let Some(sub) = words.peek().and_then(|word| command.find_subcommand(word)) {
                command = sub;
            }
            // What is behind `--` is somebody else's.
            for flag in words.take_while(|word| *word != "--").filter(|word| word.starts_with("--")) {
                assert!(knows(command, flag), "`{code}`: there is no {flag}");
            }
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen} commands were found");
}

/// Whether a command, or one below it, has this flag.
fn knows(command: &Command, flag: &str) -> bool {
    let name = flag.trim_start_matches('-');
    command.get_arguments().any(|argument| argument.get_long() == Some(name))
        || command.get_subcommands().any(|command| knows(command, flag))
}

/// The lines within blocks of code, or those outside.
fn lines(within: bool) -> impl Iterator<Item = &'static str> {
    let mut is_code = false;
    README.lines().filter(move |line| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        is_code == within && !is_fence
    })
}

/// The commands of a line as a shell has them, each as its words; enough for what README.md has.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let (mut word, mut quote, mut has_word, mut is_elsewhere) = (String::new(), None, false, false);
    for char in line.chars().chain(['\n']) {
        match (quote, char) {
            (Some(of), char) if of == char => quote = None,
            (Some(_), char) => word.push(char),
            (None, '\'' | '"') => (quote, has_word) = (Some(char), true),
            // Behind this there is a file, or nothing for a shell.
            (None, '<' | '>') => is_elsewhere = true,
            (None, '#') if word.is_empty() => break,
            (None, ' ' | '\n' | '&' | '|' | ';') => {
                let word = std::mem::take(&mut word);
                let is_word = std::mem::take(&mut has_word) || !word.is_empty();
                let command = commands.last_mut().unwrap();
                // What a shell takes for itself.
                let is_own = command.is_empty() && matches!(&*word, "do" | "then");
                if is_word && !is_own && !is_elsewhere {
                    command.push(word);
                }
                if matches!(char, '&' | '|' | ';') {
                    commands.push(Vec::new());
                    is_elsewhere = false;
                }
            }
            (None, char) => word.push(char),
        }
    }
    commands.retain(|command| !command.is_empty());
    commands
}

#[test]
fn a_line_is_taken_apart_as_a_shell_does_it() {
    let said = |line| {
        let commands = commands(line).into_iter().map(|words| words.join("_"));
        commands.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        said("lighter run -- sh -c 'a; b # c' &  lighter top  # x"),
        "lighter_run_--_sh_-c_a; b # c lighter_top"
    );
    assert_eq!(
        said("for a in b; do lighter ca token --service $a > $a.token; done"),
        "for_a_in_b lighter_ca_token_--service_$a done"
    );
    assert_eq!(said("lighter a > b && lighter c \"d e\""), "lighter_a lighter_c_d e");
}
