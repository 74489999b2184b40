-- Whoever makes figures, or a row that no fingerprint tells of, has the turn until the end of the transaction.
LOCK TABLE spendflush.figure_days IN SHARE ROW EXCLUSIVE MODE
