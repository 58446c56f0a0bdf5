-- What users read, with the indexes that the host has on it.
CREATE TABLE notifications (
    id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id           uuid NOT NULL,
    organization_id   uuid NOT NULL,
    title             varchar(255) NOT NULL,
    message           text NOT NULL,
    link_url          varchar(255),
    notification_type varchar(50) DEFAULT 'info',
    is_read           boolean DEFAULT false,
    created_at        timestamptz DEFAULT now()
);
CREATE INDEX ON notifications (organization_id);
CREATE INDEX ON notifications (user_id);
CREATE INDEX ON notifications (user_id) WHERE NOT is_read;
