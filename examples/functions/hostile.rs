//! What a device has to contain: `GET /hostile/WAY`.

use std::hint::black_box;

use lighter_example_functions::datasets::Dataset;
use lighter_example_functions::types::{IncomingRequest, ResponseOutparam};
use lighter_example_functions::{Answer, Asked, Guest, keyvalue};

struct Hostile;

impl Guest for Hostile {
    fn handle(request: IncomingRequest, to: ResponseOutparam) {
        let asked = Asked::of(&request);
        let other = asked.get("dataset").unwrap_or_default();
        let said = match asked.dataset.as_str() {
            // It never ends.
            "loop" => loop {
                black_box(());
            },
            // It takes all memory that there is.
            "memory" => {
                let mut all = Vec::new();
                loop {
                    all.push(black_box(vec![1_u8; 1 << 20]));
                }
            }
            // Its answer never ends.
            "endless" => {
                let answer = Answer::begin(to, 200, "text/plain");
                while answer.write(&[b'x'; 4096]) {}
                return;
            }
            // It goes on after nobody takes anything any more, and asks for a dataset of somebody else.
            "read" => match Dataset::open(other, None) {
                Ok(dataset) => format!("{:?}\n", dataset.read(0, 1 << 20).map(|bytes| bytes.len())),
                Err(error) => format!("{error:?}\n"),
            },
            // What others remember.
            "keys" => format!("{:?} {:?}\n", keyvalue::keys("", ""), keyvalue::get(other)),
            // More than it may remember.
            "fill" => {
                let mut stored = 0;
                while keyvalue::set(&format!("key-{stored}"), &vec![0; 1 << 16]).is_ok() {
                    stored += 1;
                }
                format!("{stored}\n")
            }
            // A stack that never ends.
            "stack" => format!("{}\n", deep(1)),
            // No answer at all.
            "silent" => return,
            // Half an answer, and then a fault.
            "half" => {
                let answer = Answer::begin(to, 200, "text/plain");
                answer.write(&[b'x'; 4096]);
                panic!("on purpose");
            }
            // Numbers whose bits WebAssembly leaves to the machine.
            "nan" => {
                let zero = black_box(0.0_f64);
                let small = black_box(0.0_f32);
                let bits = [(zero / zero).to_bits(), (-(zero / zero) * 3.0).to_bits(), black_box(-1.0_f64).sqrt().to_bits()];
                format!("{bits:x?} {:x}\n", (small / small + 1.0).to_bits())
            }
            _ => panic!("on purpose"),
        };
        let answer = Answer::begin(to, 200, "text/plain");
        answer.write(said.as_bytes());
        answer.end();
    }
}

#[inline(never)]
fn deep(at: u64) -> u64 {
    let below = black_box([at; 64]);
    deep(black_box(at + 1)).wrapping_add(below[0])
}

lighter_example_functions::export!(Hostile with_types_in lighter_example_functions);
