//! What README.md names is there, and of what there is README.md names all that has a table of its own.

mod commands;
mod fields;
mod metrics;
mod words;

const README: &str = include_str!("../../../README.md");

/// A table, and where it is.
pub struct Table {
    /// The nearest heading above it.
    heading: &'static str,
    titles: Vec<&'static str>,
    rows: Vec<Vec<&'static str>>,
}

impl Table {
    /// The only one below this heading whose first title is this one.
    pub fn of(heading: &str, first: &str) -> Table {
        let mut found = tables().into_iter().filter(|it| it.heading == heading && it.titles[0] == first);
        let table =
            found.next().unwrap_or_else(|| panic!("README.md has no table `{first}` below `{heading}`"));
        assert!(found.next().is_none(), "README.md has several tables `{first}` below `{heading}`");
        table
    }

    /// What stands in the first column as code, row by row, and not in brackets.
    pub fn names(&self) -> Vec<&'static str> {
        let plain = self.rows.iter().filter_map(|row| row[0].split('(').next());
        plain.flat_map(codes).collect()
    }
}

fn tables() -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    let (mut heading, mut is_code, mut is_table) = ("", false, false);
    for line in README.lines() {
        is_code ^= line.starts_with("```");
        let cells = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')).filter(|_| !is_code);
        let cells = cells.map(|cells| cells.split('|').map(str::trim).collect::<Vec<_>>());
        match (cells, tables.last_mut()) {
            (Some(cells), Some(table)) if is_table => {
                if !cells.iter().all(|cell| cell.trim_matches(':').chars().all(|c| c == '-')) {
                    table.rows.push(cells);
                }
            }
            (Some(titles), _) => {
                tables.push(Table { heading, titles, rows: Vec::new() });
                is_table = true;
            }
            (None, _) => is_table = false,
        }
        if !is_code && let Some(text) = line.strip_prefix('#') {
            heading = text.trim_start_matches('#').trim();
        }
    }
    tables
}

/// What stands there as code.
fn codes(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.split('`').skip(1).step_by(2)
}

/// Fails where one of the two has what the other has not.
pub fn same<'a>(
    what: &str,
    readme: impl IntoIterator<Item = &'a str>,
    code: impl IntoIterator<Item = &'a str>,
) {
    let sorted = |names: &mut dyn Iterator<Item = &'a str>| -> Vec<String> {
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort();
        names
    };
    let (readme, code) = (sorted(&mut readme.into_iter()), sorted(&mut code.into_iter()));
    let only = |one: &[String], other: &[String]| -> Vec<String> {
        one.iter().filter(|name| !other.contains(name)).cloned().collect()
    };
    let (unknown, untold) = (only(&readme, &code), only(&code, &readme));
    assert!(unknown.is_empty(), "{what}: README.md has what is not there: {unknown:?}");
    assert!(untold.is_empty(), "{what}: README.md does not have {untold:?}");
    assert_eq!(readme.len(), code.len(), "{what}: README.md has something twice: {readme:?}");
}
