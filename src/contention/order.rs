//! [`rotation`]: in which order locks take their turns.

/// The turns of `count` locks in round number `round`, by their positions.
///
/// It rotates from round to round, and turns around every other round, so that no lock always
/// runs first or always after the same neighbour.
///
/// ```
/// use lockword::contention::rotation;
///
/// let turns = |round| rotation(round, 3).collect::<Vec<_>>();
/// assert_eq!([turns(0), turns(1), turns(2)], [[0, 1, 2], [0, 2, 1], [2, 0, 1]]);
/// ```
pub fn rotation(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |step| {
        let step = if round.is_multiple_of(2) { step } else { count - 1 - step };
        (round + step) % count
    })
}

#[test]
fn every_lock_has_one_turn_a_round_and_each_is_first_at_times() {
    for count in 1..7 {
        let mut firsts = vec![];
        for round in 0..2 * count {
            let turns: Vec<usize> = rotation(round, count).collect();
            firsts.push(turns[0]);
            let mut sorted = turns;
            sorted.sort_unstable();
            assert_eq!(sorted, (0..count).collect::<Vec<_>>());
        }
        assert!((0..count).all(|lock| firsts.contains(&lock)), "{count} locks: {firsts:?}");
    }
}
