-- The queue and its consumer, made by the superuser, as the extension wants.
CREATE EXTENSION pgq;
SELECT pgq.create_queue('usage');
SELECT pgq.register_consumer('usage', 'alerts');
GRANT pgq_reader, pgq_writer TO platform;

-- Whoever is told waits for the next tick. An event whose number was drawn before
-- a tick and which committed after it counts as none that is new: it waits for a
-- tick of an idle queue.
SELECT pgq.set_queue_config('usage', 'ticker_max_lag', '10 ms');
SELECT pgq.set_queue_config('usage', 'ticker_idle_period', '100 ms');
