//! How much goes to a port at once: requests and connections that are let through, those that wait, and for how long.
//!
//! One for a port and all workers. What is let through is a number that workers raise and lower without a lock; only
//! where somebody waits does whoever leaves wake the first of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use lighter_config::snapshot;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::Cause;
use crate::telemetry::{ClusterMetrics, Standing};

/// The limits of one port. Survives configuration changes, with what is let through.
pub(crate) struct Circuit {
    requests: Gate,
    connections: Gate,
    /// Those that wait at one gate, at most.
    max_pending: AtomicU32,
    /// Milliseconds.
    patience: AtomicU64,
    metrics: Arc<ClusterMetrics>,
}

/// So many at once.
#[derive(Default)]
struct Gate {
    /// Zero: no limit.
    most: AtomicU32,
    inside: AtomicU32,
    pending: AtomicU32,
    /// Somebody may come in.
    left: Notify,
}

/// What a request holds of its port's limits.
pub(crate) struct Pass {
    circuit: Arc<Circuit>,
    request: Place,
    connection: Place,
}

/// Where a request stands at one gate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It has not asked.
    Away,
    /// It waits.
    Before,
    /// It is let through.
    Inside,
}

impl Circuit {
    /// Without limits.
    pub(super) fn new(metrics: Arc<ClusterMetrics>) -> Self {
        Circuit {
            requests: Gate::default(),
            connections: Gate::default(),
            max_pending: AtomicU32::new(0),
            patience: AtomicU64::new(0),
            metrics,
        }
    }

    /// Sets the limits. What is let through already stays so.
    pub(super) fn set(&self, said: &snapshot::Circuit) {
        self.max_pending.store(said.max_pending, Relaxed);
        let patience = u64::try_from(said.pending_timeout.as_millis()).unwrap_or(u64::MAX);
        self.patience.store(patience, Relaxed);
        for (gate, most) in [(&self.requests, said.max_requests), (&self.connections, said.max_connections)] {
            gate.most.store(most.unwrap_or(0), Relaxed);
            // There may be room now.
            gate.left.notify_waiters();
        }
    }

    /// One request more: it may go on, or has to wait, or is refused.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Pass, Cause> {
        let mut pass = Pass { circuit: self.clone(), request: Place::Away, connection: Place::Away };
        pass.request = self.ask(&self.requests)?;
        Ok(pass)
    }

    fn ask(&self, gate: &Gate) -> Result<Place, Cause> {
        // Nobody overtakes those who wait.
        if gate.pending.load(SeqCst) == 0 && gate.enter() {
            return Ok(Place::Inside);
        }
        let most = self.max_pending.load(Relaxed);
        let more = |pending: u32| (pending < most).then_some(pending + 1);
        if gate.pending.fetch_update(SeqCst, SeqCst, more).is_err() {
            self.metrics.refused(Cause::PendingOverflow);
            return Err(Cause::PendingOverflow);
        }
        self.metrics.waited();
        Ok(Place::Before)
    }

    async fn wait(&self, gate: &Gate, until: Instant) -> Result<(), Cause> {
        let inside = async {
            loop {
                let left = gate.left.notified();
                // Whoever leaves from here on is heard of.
                if gate.enter() {
                    return;
                }
                left.await;
            }
        };
        if tokio::time::timeout_at(until, inside).await.is_ok() {
            return Ok(());
        }
        self.metrics.refused(Cause::PendingTimeout);
        Err(Cause::PendingTimeout)
    }
}

impl Standing for Circuit {
    fn standing(&self) -> [u32; 3] {
        let pending = [&self.requests, &self.connections].map(|gate| gate.pending.load(Relaxed));
        let inside = |gate: &Gate| gate.inside.load(Relaxed);
        [inside(&self.requests), inside(&self.connections), pending[0] + pending[1]]
    }
}

impl Gate {
    fn enter(&self) -> bool {
        let most = self.most.load(Relaxed);
        let more = |inside: u32| (most == 0 || inside < most).then_some(inside + 1);
        self.inside.fetch_update(SeqCst, SeqCst, more).is_ok()
    }

    fn leave(&self) {
        self.inside.fetch_sub(1, SeqCst);
        if self.pending.load(SeqCst) > 0 {
            self.left.notify_one();
        }
    }
}

impl Pass {
    /// It needs a connection of its own too.
    pub(super) fn needs_connection(&mut self) -> Result<(), Cause> {
        if self.connection == Place::Away {
            self.connection = self.circuit.ask(&self.circuit.connections)?;
        }
        Ok(())
    }

    /// Whether it has to wait.
    pub(super) fn waits(&self) -> bool {
        self.request == Place::Before || self.connection == Place::Before
    }

    /// Waits until it is let through.
    pub(super) async fn admitted(&mut self) -> Result<(), Cause> {
        let circuit = self.circuit.clone();
        let until = Instant::now() + Duration::from_millis(circuit.patience.load(Relaxed));
        if self.request == Place::Before {
            circuit.wait(&circuit.requests, until).await?;
            self.request = Place::Inside;
            circuit.requests.pending.fetch_sub(1, SeqCst);
        }
        if self.connection == Place::Before {
            circuit.wait(&circuit.connections, until).await?;
            self.connection = Place::Inside;
            circuit.connections.pending.fetch_sub(1, SeqCst);
        }
        Ok(())
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let circuit = &*self.circuit;
        for (place, gate) in [(self.request, &circuit.requests), (self.connection, &circuit.connections)] {
            match place {
                Place::Away => {}
                Place::Before => drop(gate.pending.fetch_sub(1, SeqCst)),
                Place::Inside => gate.leave(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Waker};

    use lighter_config::name::{ServiceName, ServicePort};

    use super::*;

    fn circuit(requests: Option<u32>, connections: Option<u32>, pending: u32) -> Arc<Circuit> {
        let key = ServicePort { service: ServiceName::new("circuit", "test"), port: 80 };
        let circuit = Circuit::new(ClusterMetrics::of(&key));
        circuit.set(&snapshot::Circuit {
            max_requests: requests,
            max_connections: connections,
            max_pending: pending,
            pending_timeout: Duration::from_millis(100),
        });
        Arc::new(circuit)
    }

    fn is_ready<F: Future<Output = Result<(), Cause>>>(future: Pin<&mut F>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_goes_on_when_another_leaves_and_in_order() {
        let circuit = circuit(Some(1), None, 2);
        let first = circuit.enter().unwrap();
        let (mut second, mut third) = (circuit.enter().unwrap(), circuit.enter().unwrap());
        assert!(!first.waits() && second.waits() && third.waits());
        assert_eq!(circuit.enter().err(), Some(Cause::PendingOverflow));
        {
            let mut second = pin!(second.admitted());
            let mut third = pin!(third.admitted());
            assert!(!is_ready(second.as_mut()) && !is_ready(third.as_mut()));
            drop(first);
            assert!(!is_ready(third.as_mut()), "nobody overtakes");
            assert!(is_ready(second.as_mut()));
        }
        assert_eq!(circuit.standing(), [1, 0, 1]);
        drop(second);
        third.admitted().await.unwrap();
        drop(third);
        assert_eq!(circuit.standing(), [0, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_refused() {
        let circuit = circuit(Some(1), None, 2);
        let _first = circuit.enter().unwrap();
        let mut second = circuit.enter().unwrap();
        let began = Instant::now();
        assert_eq!(second.admitted().await, Err(Cause::PendingTimeout));
        assert_eq!(began.elapsed().as_millis(), 100);
        drop(second);
        assert_eq!(circuit.standing(), [1, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_asked_for_apart() {
        let circuit = circuit(None, Some(1), 1);
        let mut first = circuit.enter().unwrap();
        first.needs_connection().unwrap();
        let mut second = circuit.enter().unwrap();
        assert!(!second.waits());
        second.needs_connection().unwrap();
        assert!(second.waits());
        let mut third = circuit.enter().unwrap();
        assert!(!third.waits(), "only connections are short");
        assert_eq!(third.needs_connection(), Err(Cause::PendingOverflow));
        drop((first, third));
        second.admitted().await.unwrap();
        assert_eq!(circuit.standing(), [1, 1, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_raised_lets_in_who_waits() {
        let circuit = circuit(Some(1), None, 1);
        let _first = circuit.enter().unwrap();
        let mut second = circuit.enter().unwrap();
        let mut admitted = pin!(second.admitted());
        assert!(!is_ready(admitted.as_mut()));
        circuit.set(&snapshot::Circuit::default());
        assert!(is_ready(admitted.as_mut()));
    }

    #[test]
    fn workers_at_once_never_pass_the_limit_and_lose_nobody() {
        let circuit = circuit(Some(3), None, 0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if let Ok(pass) = circuit.enter() {
                            assert!(circuit.standing()[0] <= 3);
                            drop(pass);
                        }
                    }
                });
            }
        });
        assert_eq!(circuit.standing(), [0, 0, 0]);
    }
}
