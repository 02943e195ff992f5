//! The invariants of the protocol, one checker each. All look on during every run.

mod agreement;
mod capture;
mod convergence;
mod exclusion;
mod freshness;
mod knowledge;
mod log;
mod recovery;
mod secrecy;
mod shape;
mod silence;

use muster_wire::{Time, Transmit};

use crate::{Fact, View};

pub use agreement::Agreement;
pub use capture::Capture;
pub use convergence::Convergence;
pub use exclusion::Exclusion;
pub use freshness::Freshness;
pub use log::Log;
pub use recovery::Recovery;
pub use secrecy::Secrecy;
pub use shape::Shape;
pub use silence::{Attack, Reaction, Silence};

/// What a checker says: nothing, or what is wrong.
pub type Verdict = Result<(), String>;

/// Looks on and complains.
pub trait Check {
    /// The invariant.
    fn name(&self) -> &'static str;

    /// Something happened.
    fn fact(&mut self, _at: Time, _fact: &Fact) -> Verdict {
        Ok(())
    }

    /// A node has sent something.
    fn sent(&mut self, _at: Time, _from: usize, _transmit: &Transmit) -> Verdict {
        Ok(())
    }

    /// Time has passed.
    fn look(&mut self, _view: &View) -> Verdict {
        Ok(())
    }

    /// A datagram that no honest device sent was put to a node.
    fn attack(&mut self, _attack: &Attack, _reaction: &Reaction) -> Verdict {
        Ok(())
    }

    /// The run has ended.
    fn finish(&mut self) -> Verdict {
        Ok(())
    }

    /// The run may end.
    fn is_content(&self) -> bool {
        true
    }
}

/// All of them.
pub fn all() -> Vec<Box<dyn Check>> {
    vec![
        Box::new(Agreement::default()),
        Box::new(Secrecy::default()),
        Box::new(Exclusion::default()),
        Box::new(Capture::default()),
        Box::new(Freshness::default()),
        Box::new(Recovery::default()),
        Box::new(Convergence::default()),
        Box::new(Shape::default()),
        Box::new(Silence),
    ]
}
