-- The LMS database: no limits, and the notifications that people see.
CREATE TABLE organizations (
    id                   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name                 varchar(255) NOT NULL,
    logo_url             text,
    domain               varchar(255),
    api_key              uuid DEFAULT gen_random_uuid(),
    platform_name        varchar(255),
    certificates_enabled boolean NOT NULL DEFAULT true,
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE users (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    email           text NOT NULL,
    password_hash   text NOT NULL,
    full_name       text NOT NULL,
    role            text NOT NULL DEFAULT 'student' CHECK (role IN ('admin', 'instructor', 'student')),
    xp              integer NOT NULL DEFAULT 0,
    level           integer NOT NULL DEFAULT 1,
    language        varchar(10),
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);

CREATE UNIQUE INDEX users_organization_email ON users (organization_id, lower(email));

-- Nothing ties usage to a user here, and every count must be given.
CREATE TABLE ai_usage_logs (
    id                 uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id            uuid NOT NULL,
    organization_id    uuid NOT NULL,
    tokens_used        integer NOT NULL,
    input_tokens       integer NOT NULL,
    output_tokens      integer NOT NULL,
    endpoint           varchar(255),
    model              varchar(100),
    request_type       varchar(50),
    request_metadata   jsonb,
    estimated_cost_usd numeric(10, 6),
    created_at         timestamptz DEFAULT now(),
    prompt             text,
    response           text
);
