-- How an organization sends mail. A CMS database may lack this table.
CREATE TABLE organization_email_services (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    service_type    text NOT NULL DEFAULT 'smtp',
    provider_key    text,
    display_name    text,
    is_enabled      boolean NOT NULL DEFAULT true,
    is_default      boolean NOT NULL DEFAULT false,
    smtp_host       text,
    smtp_port       integer DEFAULT 587,
    smtp_from       text,
    smtp_username   text,
    smtp_password   text,
    smtp_starttls   boolean DEFAULT true
);

CREATE UNIQUE INDEX organization_email_services_default
    ON organization_email_services (organization_id) WHERE is_default;
