-- What users read.
CREATE TABLE notifications (
    id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id   uuid NOT NULL,
    user_id           uuid NOT NULL,
    title             varchar(255) NOT NULL,
    message           text NOT NULL,
    notification_type varchar(50) DEFAULT 'info',
    is_read           boolean DEFAULT false,
    link_url          varchar(255),
    created_at        timestamptz DEFAULT now()
);

CREATE INDEX idx_notifications_user ON notifications (user_id);
CREATE INDEX idx_notifications_org ON notifications (organization_id);
CREATE INDEX idx_notifications_unread ON notifications (user_id) WHERE NOT is_read;
