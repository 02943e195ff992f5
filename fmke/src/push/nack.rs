//! When a member says what it misses (draft 4.2): not all at once.

use std::time::Duration;

use muster_wire::Time;
use rand_core::Rng;

/// The longest first wait.
const WINDOW: Duration = Duration::from_millis(1000);
/// How strongly late times are preferred: of up to e^10 (22,000) members that miss the same message, a handful is expected to
/// ask before the first answer comes (the truncated exponential of RFC 5740 3.2.2.2 and Appendix A there).
const SLOPE: f64 = 10.0;
/// After a question its answer is waited for so long, plus another random time; each further one twice as long.
const ANSWER: Duration = Duration::from_millis(1500);
/// After so many unanswered questions the member has lost its group and registers anew.
const MOST_QUESTIONS: u32 = 6;

/// "The Group member waiting time follows a pre-calculated distribution: few of them will be authorized to send a Nack at the
/// beginning, and it is expected that these messages will be sufficient" (draft 4.2). What comes by multicast meanwhile, for
/// whoever asked, silences the others.
#[derive(Default)]
pub(crate) struct NackTimer {
    due: Option<Time>,
    questions: u32,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing yet.
    Nothing,
    /// Say what is missing.
    Ask,
    /// Nobody answers.
    Lost,
}

impl NackTimer {
    /// Something has come, and something `is_missing` or not.
    pub(crate) fn update(&mut self, now: Time, is_missing: bool, has_progressed: bool, rng: &mut impl Rng) {
        if !is_missing {
            *self = NackTimer::default();
        } else if self.due.is_none() || has_progressed {
            *self = NackTimer { due: Some(now + random_wait(rng)), questions: 0 };
        }
    }

    /// When to ask [`due`](Self::due).
    pub(crate) fn timeout(&self) -> Option<Time> {
        self.due
    }

    /// What is due by `now`.
    pub(crate) fn due(&mut self, now: Time, rng: &mut impl Rng) -> Due {
        match self.due {
            Some(due) if due <= now && self.questions == MOST_QUESTIONS => {
                *self = NackTimer::default();
                Due::Lost
            }
            Some(due) if due <= now => {
                self.due = Some(now + ANSWER * (1 << self.questions) + random_wait(rng));
                self.questions += 1;
                Due::Ask
            }
            _ => Due::Nothing,
        }
    }
}

/// From 0 to [`WINDOW`], rarely early.
fn random_wait(rng: &mut impl Rng) -> Duration {
    let uniform = rng.next_u32() as f64 / f64::from(u32::MAX);
    let share = (uniform * SLOPE.exp_m1()).ln_1p() / SLOPE;
    WINDOW.mul_f64(share.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn rng() -> ChaCha20Rng {
        ChaCha20Rng::seed_from_u64(7)
    }

    #[test]
    fn of_thousands_a_few_ask_first() {
        let mut rng = rng();
        let mut waits: Vec<Duration> = (0..10_000).map(|_| random_wait(&mut rng)).collect();
        waits.sort();
        // Who asks before the answer to the first question can be here, 100 ms later.
        let first = waits[0];
        let asked = waits.iter().filter(|wait| **wait <= first + Duration::from_millis(100)).count();
        assert!((1..=40).contains(&asked), "{asked} of 10,000 within 100 ms of the first, at {first:?}");
        assert!(waits[9_999] <= WINDOW && waits[5_000] > WINDOW / 2);
    }

    #[test]
    fn asks_again_ever_later_and_gives_up() {
        let (mut timer, mut rng) = (NackTimer::default(), rng());
        timer.update(Time(0), true, false, &mut rng);
        let first = timer.timeout().unwrap();
        timer.update(Time(1), true, false, &mut rng);
        assert_eq!(timer.timeout(), Some(first), "a further message changes nothing");
        let mut last = first;
        for _ in 0..MOST_QUESTIONS {
            assert_eq!(timer.due(last - Duration::from_micros(1), &mut rng), Due::Nothing);
            assert_eq!(timer.due(last, &mut rng), Due::Ask);
            assert!(timer.timeout().unwrap() >= last + ANSWER);
            last = timer.timeout().unwrap();
        }
        assert_eq!(timer.due(last, &mut rng), Due::Lost);
        assert_eq!(timer.timeout(), None);
    }

    #[test]
    fn what_comes_silences() {
        let (mut timer, mut rng) = (NackTimer::default(), rng());
        timer.update(Time(0), true, false, &mut rng);
        timer.update(Time(5), false, true, &mut rng);
        assert_eq!(timer.timeout(), None);
        timer.update(Time(9), true, false, &mut rng);
        assert_eq!(timer.due(timer.timeout().unwrap(), &mut rng), Due::Ask);
        let asked = timer.timeout();
        timer.update(Time(9_000_000), true, true, &mut rng);
        assert!(timer.timeout() != asked, "half of it has come: the rest is asked for soon");
        assert!(timer.timeout().unwrap() <= Time(9_000_000) + WINDOW);
    }
}
