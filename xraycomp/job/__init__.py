"""The main job, from settings to a submission: how it is begun and how it is finished."""
