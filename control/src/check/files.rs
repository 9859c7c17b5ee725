//! Whether files say what they are meant to say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lighter_config::error::{ConfigError, ConfigErrors};
use lighter_config::load::{Resources, read_standard_input, read_text};
use lighter_config::sidecar::SidecarConfig;
use lighter_config::snapshot::Snapshot;
use miette::{Diagnostic, LabeledSpan, NamedSource, Report, Severity, SourceCode, SourceOffset};
use serde_json::{Value, json};

/// What was found in some files.
#[derive(Debug, Default)]
pub struct Findings {
    /// How many resources could be read.
    pub resources: usize,
    /// How many sidecars' own files could be read.
    pub sidecars: usize,
    /// What has to be put right.
    pub errors: Vec<ConfigError>,
    /// What is allowed, but hardly meant.
    pub warnings: Vec<ConfigError>,
    /// What could be read once only, by what errors call it.
    streams: BTreeMap<String, String>,
}

impl Findings {
    /// Reads files, folders, pipes, and standard input where a path is `-`. Resources are judged together, a sidecar's
    /// own file by itself.
    pub fn of(paths: &[PathBuf]) -> Self {
        let mut findings = Findings::default();
        let (streams, paths): (Vec<_>, Vec<_>) = paths.iter().cloned().partition(|path| is_stream(path));
        for path in streams {
            let read =
                if path == Path::new(STANDARD_INPUT) { read_standard_input() } else { read_text(&path) };
            match read {
                Ok(text) => drop(findings.streams.insert(path.display().to_string(), text)),
                Err(error) => findings.errors.push(error),
            }
        }
        let (sidecars, paths): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| is_sidecar_file(path));
        for path in sidecars {
            findings.keep_sidecar(SidecarConfig::read(&path));
        }
        let read = findings.keep(Resources::read(&paths));
        let mut whole = read.is_some();
        let mut resources = read.unwrap_or_default();
        for (name, text) in findings.streams.clone() {
            match is_sidecar(&text) {
                true => findings.keep_sidecar(SidecarConfig::parse(&name, &text)),
                false => whole &= findings.keep(resources.add_text(&name, &text)).is_some(),
            }
        }
        // Of what is there in part, little can be said as a whole.
        if whole {
            findings.resources = resources.len();
            if let Some(snapshot) = findings.keep(Snapshot::build(&resources)) {
                findings.warnings = snapshot.warnings;
            }
        }
        findings
    }

    /// A finding in its place.
    pub fn show(&self, found: &ConfigError, severity: Severity) -> Shown {
        // What cannot be read is among the findings already; it has no excerpt.
        let text = match self.streams.get(&*found.file) {
            Some(text) => text.clone(),
            None => std::fs::read_to_string(&*found.file).unwrap_or_default(),
        };
        Shown::new(found, severity, text)
    }

    fn keep_sidecar(&mut self, read: Result<SidecarConfig, ConfigErrors>) {
        self.sidecars += usize::from(self.keep(read).is_some());
    }

    fn keep<T>(&mut self, result: Result<T, ConfigErrors>) -> Option<T> {
        result.map_err(|faults| self.errors.extend(faults.errors)).ok()
    }

    /// As `--json` writes it.
    pub fn to_json(&self) -> Value {
        json!({
            "ok": self.errors.is_empty(),
            "resources": self.resources,
            "sidecars": self.sidecars,
            "errors": self.errors,
            "warnings": self.warnings,
        })
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let count = |number: usize, what: &str| match number {
            1 => format!("1 {what}"),
            _ => format!("{number} {what}s"),
        };
        let mut parts = vec![count(self.resources, "resource")];
        if self.sidecars > 0 {
            parts.push(count(self.sidecars, "sidecar file"));
        }
        parts.push(count(self.errors.len(), "error"));
        parts.push(count(self.warnings.len(), "warning"));
        parts.join(", ")
    }
}

/// A finding in its place: the line of the file, marked, and the hint below.
#[derive(Debug)]
pub struct Shown {
    /// `file:line:column: path: message`, and the resource.
    title: String,
    severity: Severity,
    label: Option<LabeledSpan>,
    hint: Option<String>,
    source: NamedSource<String>,
}

impl Shown {
    /// The place is looked up in `text`; without one, there is no excerpt.
    pub fn new(found: &ConfigError, severity: Severity, text: String) -> Self {
        let place = (found.line > 0 && !text.is_empty())
            .then(|| SourceOffset::from_location(&text, found.line as usize, found.column as usize));
        let mut title = found.to_string().lines().next().unwrap_or_default().to_owned();
        if let (None, Some(resource)) = (&place, &found.resource) {
            title += &format!(" (in {resource})");
        }
        let label = place.map(|offset| LabeledSpan::new_primary_with_span(found.resource.clone(), offset));
        Shown {
            title,
            severity,
            label,
            hint: found.hint.clone(),
            source: NamedSource::new(&found.file, text),
        }
    }

    /// Writes it to standard error.
    pub fn tell(self) {
        eprintln!("{:?}", Report::new(self));
    }
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.title)
    }
}

impl std::error::Error for Shown {}

impl Diagnostic for Shown {
    fn severity(&self) -> Option<Severity> {
        Some(self.severity)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.hint.as_ref().map(|hint| Box::new(hint) as Box<dyn std::fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.label.as_ref().map(|_| &self.source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let label = self.label.clone()?;
        Some(Box::new(std::iter::once(label)))
    }
}

/// Stands for standard input.
const STANDARD_INPUT: &str = "-";

/// Whether what a path stands for can be read once only.
fn is_stream(path: &Path) -> bool {
    let by_kind = || std::fs::metadata(path).is_ok_and(|about| !about.is_file() && !about.is_dir());
    path == Path::new(STANDARD_INPUT) || by_kind()
}

fn is_sidecar_file(path: &Path) -> bool {
    path.is_file() && is_sidecar(&std::fs::read_to_string(path).unwrap_or_default())
}

/// Whether a text is a sidecar's own file: it has none of the fields that every resource has.
fn is_sidecar(text: &str) -> bool {
    let of_resource = |line: &str| {
        let word = line.trim_start_matches(['{', ' ', '\t', '"']);
        ["apiVersion", "kind", "metadata", "spec"].iter().any(|field| word.starts_with(field))
    };
    !text.trim().is_empty() && !text.lines().any(of_resource)
}

#[cfg(test)]
mod tests {
    use super::*;
    use miette::{GraphicalReportHandler, GraphicalTheme};

    fn shown(found: &ConfigError) -> String {
        let mut text = String::new();
        let handler = GraphicalReportHandler::new_themed(GraphicalTheme::none()).with_wrap_lines(false);
        handler.render_report(&mut text, &Findings::default().show(found, Severity::Error)).unwrap();
        text
    }

    #[test]
    fn a_finding_is_shown_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mesh.yaml");
        std::fs::write(&file, "kind: Service\nspec:\n  prots: []\n").unwrap();
        let mut found = ConfigError {
            file: file.display().to_string().into(),
            line: 3,
            column: 3,
            resource: Some("Service default/a".into()),
            path: "spec.prots".into(),
            message: "unknown field `prots`".into(),
            hint: Some("did you mean `ports`?".into()),
        };
        let text = shown(&found);
        let title = format!("{}:3:3: spec.prots: unknown field `prots`\n", file.display());
        for expected in [&*title, "  prots: []", "Service default/a", "did you mean `ports`?"] {
            assert!(text.contains(expected), "no {expected} in\n{text}");
        }

        // A finding about a whole file, or one that cannot be read, has no excerpt.
        (found.file, found.line, found.resource) = ("/nonexistent".into(), 0, None);
        let text = shown(&found);
        assert!(text.contains("/nonexistent: spec.prots: unknown field") && !text.contains("[]"), "{text}");

        // Where there is no excerpt, the title says which resource it is about.
        found.resource = Some("Service default/a".into());
        assert!(shown(&found).contains("unknown field `prots` (in Service default/a)\n"));
    }

    #[test]
    fn a_sidecars_file_is_told_from_resources() {
        for (text, expected) in [
            ("service: web\n", true),
            ("apiVersion: x\nkind: Service\n", false),
            ("{\n  \"apiVersion\": \"x\"}", false),
            ("metadata: {name: a}\n", false),
            ("", false),
        ] {
            assert_eq!(is_sidecar(text), expected, "{text}");
        }
        assert!(!is_sidecar_file(&std::env::temp_dir()), "a folder holds resources");
    }
}
