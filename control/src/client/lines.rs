//! How two texts differ, line by line, as `diff -u` writes it.

use std::fmt::Write;
use std::ops::Range;

/// Lines shown around each difference.
const CONTEXT: usize = 3;
/// Lines of the two middles that are compared with each other. Beyond it, the one is shown replaced by the other.
const MOST_CELLS: usize = 4 << 20;

/// One line of the way from the old text to the new.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    Same,
    Less,
    More,
}

/// The difference in unified form, without the two lines that name the texts. Empty: there is none.
pub fn unified(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let steps = steps(&old, &new);
    let mut text = String::new();
    for hunk in hunks(&steps) {
        write_hunk(&mut text, &steps, &hunk, &old, &new);
    }
    text
}

/// The way with the fewest changes.
fn steps(old: &[&str], new: &[&str]) -> Vec<Step> {
    let front = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[front..], &new[front..]);
    let back = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[..old.len() - back], &new[..new.len() - back]);
    let mut steps = vec![Step::Same; front];
    middle(old, new, &mut steps);
    steps.extend(std::iter::repeat_n(Step::Same, back));
    steps
}

/// By the longest common subsequence.
fn middle(old: &[&str], new: &[&str], steps: &mut Vec<Step>) {
    let width = new.len() + 1;
    if (old.len() + 1).saturating_mul(width) > MOST_CELLS {
        steps.extend(std::iter::repeat_n(Step::Less, old.len()));
        steps.extend(std::iter::repeat_n(Step::More, new.len()));
        return;
    }
    // How many lines the rests of both have in common.
    let mut common = vec![0u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i * width + j] = match old[i] == new[j] {
                true => common[(i + 1) * width + j + 1] + 1,
                false => common[(i + 1) * width + j].max(common[i * width + j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            steps.push(Step::Same);
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || i < old.len() && common[(i + 1) * width + j] >= common[i * width + j + 1]
        {
            steps.push(Step::Less);
            i += 1;
        } else {
            steps.push(Step::More);
            j += 1;
        }
    }
}

/// Differences with their context, those that touch as one.
fn hunks(steps: &[Step]) -> Vec<Range<usize>> {
    let mut hunks: Vec<Range<usize>> = Vec::new();
    for (index, _) in steps.iter().enumerate().filter(|(_, step)| **step != Step::Same) {
        let (start, end) = (index.saturating_sub(CONTEXT), (index + CONTEXT + 1).min(steps.len()));
        match hunks.last_mut() {
            Some(last) if start <= last.end => last.end = end,
            _ => hunks.push(start..end),
        }
    }
    hunks
}

fn write_hunk(text: &mut String, steps: &[Step], hunk: &Range<usize>, old: &[&str], new: &[&str]) {
    let count =
        |range: Range<usize>, without: Step| steps[range].iter().filter(|step| **step != without).count();
    let (mut i, mut j) = (count(0..hunk.start, Step::More), count(0..hunk.start, Step::Less));
    let (less, more) = (count(hunk.clone(), Step::More), count(hunk.clone(), Step::Less));
    // A side without a line is named by the line before it.
    let first = |before: usize, lines: usize| if lines == 0 { before } else { before + 1 };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "@@ -{},{less} +{},{more} @@", first(i, less), first(j, more));
    for step in &steps[hunk.clone()] {
        let _ = match step {
            Step::Same => writeln!(text, " {}", old[i]),
            Step::Less => writeln!(text, "-{}", old[i]),
            Step::More => writeln!(text, "+{}", new[j]),
        };
        i += usize::from(*step != Step::More);
        j += usize::from(*step != Step::Less);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_shown_with_what_is_around_them() {
        let old = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\n";
        let new = "a\nB\nc\nd\ne\nf\ng\nh\ni\nj\nl\nm\n";
        let expected = "@@ -1,5 +1,5 @@\n a\n-b\n+B\n c\n d\n e\n@@ -8,5 +8,5 @@\n h\n i\n j\n-k\n l\n+m\n";
        assert_eq!(unified(old, new), expected);
        assert_eq!(unified(old, old), "");
        assert_eq!(unified("", "a\nb\n"), "@@ -0,0 +1,2 @@\n+a\n+b\n");
        assert_eq!(unified("a\n", ""), "@@ -1,1 +0,0 @@\n-a\n");
    }

    /// Whatever is compared, the difference leads from the one to the other.
    #[test]
    fn a_difference_leads_from_the_old_text_to_the_new() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..500 {
            let mut text =
                || (0..random.usize(0..12)).map(|_| ["a", "b", "c"][random.usize(0..3)]).collect::<Vec<_>>();
            let (old, new) = (text(), text());
            let steps = steps(&old, &new);
            let (mut olds, mut news) = (old.iter(), new.iter());
            for step in &steps {
                match step {
                    Step::Same => assert_eq!(olds.next(), news.next()),
                    Step::Less => assert!(olds.next().is_some()),
                    Step::More => assert!(news.next().is_some()),
                }
            }
            assert!(olds.next().is_none() && news.next().is_none());
        }
    }
}
