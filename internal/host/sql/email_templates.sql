-- What an organization's mails say, with {{placeholders}}. A CMS database may
-- lack this table.
CREATE TABLE organization_email_templates (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id  uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    template_key     varchar(100) NOT NULL,
    display_name     text,
    subject_template text,
    body_template    text,
    is_html          boolean NOT NULL DEFAULT false,
    is_enabled       boolean NOT NULL DEFAULT true,
    UNIQUE (organization_id, template_key)
);
