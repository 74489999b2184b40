-- Takes up series that aren't known yet.
-- $1 keys in order, $2 to $12 texts, $13 the places of their tags among $14, the sets of tags, each as the text of an array
INSERT INTO spendflush.series (key, api_key, user_id, end_user_id, team_id, organization_id, agent_id,
    model, model_group, custom_llm_provider, mcp_namespaced_tool_name, endpoint, tags)
SELECT u.key, u.api_key, u.user_id, u.end_user_id, u.team_id, u.organization_id, u.agent_id,
    u.model, u.model_group, u.custom_llm_provider, u.mcp_namespaced_tool_name, u.endpoint, ($14::text[])[u.set_of]::text[]
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
        $10::text[], $11::text[], $12::text[], $13::bigint[])
    AS u (key, api_key, user_id, end_user_id, team_id, organization_id, agent_id,
        model, model_group, custom_llm_provider, mcp_namespaced_tool_name, endpoint, set_of)
ORDER BY u.key
ON CONFLICT (key) DO NOTHING
