//! [`rotation`]: in which order locks take their turns.

/// The turns of `count` locks in round number `round`, by their positions.
///
/// It turns around every other round, and rotates every second one. So in twice as many rounds as
/// there are locks each is first twice, and each comes after either neighbour equally often.
///
/// ```
/// use lockword::contention::rotation;
///
/// let turns = |round| rotation(round, 3).collect::<Vec<_>>();
/// assert_eq!([turns(0), turns(1), turns(2)], [[0, 1, 2], [2, 1, 0], [1, 2, 0]]);
/// ```
pub fn rotation(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |step| {
        let step = if round.is_multiple_of(2) { step } else { count - 1 - step };
        (round / 2 + step) % count
    })
}

#[test]
fn every_lock_has_one_turn_a_round_and_each_is_first_equally_often() {
    for count in 1..7 {
        let mut firsts = vec![0; count];
        for round in 0..2 * count {
            let turns: Vec<usize> = rotation(round, count).collect();
            firsts[turns[0]] += 1;
            let mut sorted = turns;
            sorted.sort_unstable();
            assert_eq!(sorted, (0..count).collect::<Vec<_>>());
        }
        assert_eq!(firsts, vec![2; count]);
    }
}
