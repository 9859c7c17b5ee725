//! The journal of a state: what answers acknowledge is at another instance before they go on. Without I/O.
//!
//! The control plane names who keeps the journal, the *standby*, in its store before it says it, and says it to both. Whoever
//! serves gives what has changed in [rounds](Rounds) to the standby, which keeps it as a [`Shadow`]. Where the one that serves dies,
//! the standby is its [heir](keepers::heir), and takes nothing more from then on: whoever served before, and does not know
//! it, acknowledges nothing any more.
//!
//! Where somebody else is to keep the journal, the standby is the heir until that one has everything: whoever serves gives to both, and
//! what it acknowledges from then on both have. It says so, one transaction of the store makes the other one the standby, and
//! only once whoever serves knows that does the one before let go.

pub mod keepers;
mod ledger;
mod rounds;
mod shadow;

pub use ledger::{Ledger, Part, Shut, Told};
pub use rounds::{Round, Rounds};
pub use shadow::{Measured, Shadow, Taken};
