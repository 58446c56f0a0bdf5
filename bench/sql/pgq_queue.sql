-- The queue and its consumer, made by the superuser, as the extension wants. No
-- tick waits until it is worth it: whoever is told waits for the tick.
CREATE EXTENSION pgq;
SELECT pgq.create_queue('usage');
SELECT pgq.register_consumer('usage', 'alerts');
SELECT pgq.set_queue_config('usage', 'ticker_max_lag', '10 ms');
GRANT pgq_reader, pgq_writer TO platform;
