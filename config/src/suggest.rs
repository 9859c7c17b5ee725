//! "Did you mean …?"

/// The one of `known` that `word` is probably a misspelling of.
pub(crate) fn closest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let word: Vec<char> = word.to_lowercase().chars().collect();
    let allowed = 1 + word.len() / 4;
    // Most candidates are told apart by their lengths, which costs nothing.
    let near = |candidate: &&str| candidate.chars().count().abs_diff(word.len()) <= allowed;
    let of = |candidate: &'k str| {
        (distance(&word, &candidate.to_lowercase().chars().collect::<Vec<_>>()), candidate)
    };
    known
        .into_iter()
        .filter(near)
        .map(of)
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, word)| word)
}

/// How many characters have to be put in, taken out, replaced, or swapped with their neighbour.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn a_misspelt_word_finds_the_right_one() {
        let fields = ["parentRefs", "hostnames", "rules"];
        assert_eq!(closest("parentRef", fields), Some("parentRefs"));
        assert_eq!(closest("ParentRefs", fields), Some("parentRefs"));
        assert_eq!(closest("ruels", fields), Some("rules"));
        assert_eq!(closest("backends", fields), None);
        assert_eq!(closest("", fields), None);
    }
}
