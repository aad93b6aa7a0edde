//! How the gateway shares its own line among the edges that have work: weighted max-min. Pure.
//!
//! Nobody gets more than it asks for; what one leaves is shared among the others by weight, until all have what they ask for or the line
//! is dealt out. (Bertsekas and Gallager, "Data Networks", section 6.5.2.)

/// How long a grant holds. An edge that hears nothing for that long falls back to its policy alone; three are given in that time, so that two may get lost.
pub const GRANT: std::time::Duration = std::time::Duration::from_secs(15);

/// What one edge asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Bits per second that its own policy allows now, or less if it cannot use that. 0: it has no work.
    pub want: u64,
    /// Shares go by weight; at least 1.
    pub weight: u32,
}

/// Bits per second for each, in the order of `asks`. Their sum is at most `cap`, and exactly the smaller of `cap` and the sum of what is asked.
pub fn share(cap: u64, asks: &[Ask]) -> Vec<u64> {
    let mut shares = vec![0; asks.len()];
    // Those who want least for their weight are served whole first; then the rest is dealt out by weight at one level.
    let mut order: Vec<usize> = (0..asks.len()).filter(|at| asks[*at].want > 0).collect();
    let weight = |at: &usize| u128::from(asks[*at].weight.max(1));
    order.sort_by(|one, other| {
        (u128::from(asks[*one].want) * weight(other)).cmp(&(u128::from(asks[*other].want) * weight(one)))
    });
    let (mut left, mut weights) = (u128::from(cap), order.iter().map(weight).sum::<u128>());
    for at in order {
        // Of what is left its part by weight, rounded down; the last one gets what rounding left over.
        let part = (left * weight(&at)) / weights;
        let given = part.min(u128::from(asks[at].want));
        shares[at] = given as u64;
        left -= given;
        weights -= weight(&at);
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask(want: u64, weight: u32) -> Ask {
        Ask { want, weight }
    }

    #[test]
    fn small_wants_are_met_and_the_rest_is_shared_by_weight() {
        let asks = [ask(100, 1), ask(0, 5), ask(2_000, 1), ask(2_000, 2)];
        assert_eq!(share(1_000, &asks), [100, 0, 300, 600]);
        assert_eq!(share(10_000, &asks), [100, 0, 2_000, 2_000]);
        assert_eq!(share(0, &asks), [0, 0, 0, 0]);
        assert_eq!(share(5, &[]), [] as [u64; 0]);
    }

    proptest! {
        #[test]
        fn never_above_the_cap_nor_above_a_want_and_nothing_is_left_lying(
            cap in 0u64..10_000_000_000,
            asks in prop::collection::vec((0u64..20_000_000, 1u32..1000), 0..500),
        ) {
            let asks: Vec<Ask> = asks.into_iter().map(|(want, weight)| ask(want, weight)).collect();
            let shares = share(cap, &asks);
            let (given, wanted): (u64, u64) = (shares.iter().sum(), asks.iter().map(|ask| ask.want).sum());
            prop_assert_eq!(given, cap.min(wanted));
            for (share, ask) in shares.iter().zip(&asks) {
                prop_assert!(*share <= ask.want);
            }
            // Fair: whoever did not get all it wants has, for its weight, no less than anybody else, but for a bit per edge of rounding.
            let rounding = asks.len() as u64;
            for (share, ask) in shares.iter().zip(&asks).filter(|(share, ask)| **share < ask.want) {
                for (other, its) in shares.iter().zip(&asks) {
                    let mine = u128::from(share + rounding) * u128::from(its.weight);
                    let theirs = u128::from(other.saturating_sub(rounding)) * u128::from(ask.weight);
                    prop_assert!(mine >= theirs, "{share} of {ask:?} beside {other} of {its:?}");
                }
            }
        }
    }
}
