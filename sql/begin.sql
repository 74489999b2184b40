-- The rows are locked and counted by the statements themselves: nothing more than READ COMMITTED is needed, whatever
-- the role's default is.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE
