-- Every series with its key.
SELECT key, api_key, user_id, end_user_id, team_id, organization_id, agent_id, model, model_group, custom_llm_provider,
    mcp_namespaced_tool_name, endpoint, tags
FROM spendflush.series
