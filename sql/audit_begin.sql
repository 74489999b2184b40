-- What holds for the transaction of an audit. To compile its statements takes longer than to run them.
SELECT set_config('jit', 'off', true)
