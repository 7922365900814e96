; Variables that data.json names. They stand at fixed addresses: change both together.

        .export _seed, _built_seed, _hero_x, _hero_y, _level, _coins, _lives, _score, _theme, _death, _goal, _ready
        .export _max_x, _progress, _hero_state, _speed_x, _speed_y, _level_frames, _late_frames, _level_columns
        .export _num_enemies, _kills, _camera_x, _num_builds, _build_frames

        .segment "SHARED" : absolute
_seed:          .res 2          ; $0300 the level to play: write here to choose another
_built_seed:    .res 2          ; $0302 the level that is being played
_hero_x:        .res 2          ; $0304 pixels from the level's left end
_hero_y:        .res 1          ; $0306 pixels from the picture's top to the feet
_level:         .res 1          ; $0307 1 at the start, one more after each goal
_coins:         .res 1          ; $0308
_lives:         .res 1          ; $0309
_score:         .res 2          ; $030A
_theme:         .res 1          ; $030C
_death:         .res 1          ; $030D 0, or what the hero died of
_goal:          .res 1          ; $030E 1 once the gate is reached
_ready:         .res 1          ; $030F 1 while the level is playable
_max_x:         .res 2          ; $0310 largest hero_x in this level
_progress:      .res 1          ; $0312 columns passed: max_x / 16
_hero_state:    .res 1          ; $0313
_speed_x:       .res 1          ; $0314 1/16 pixels per frame
_speed_y:       .res 1          ; $0315
_level_frames:  .res 2          ; $0316 frames played in this level
_late_frames:   .res 1          ; $0318 frames in which the console missed the vertical blank
_level_columns: .res 1          ; $0319 length of the level in columns of 16 pixels
_num_enemies:   .res 1          ; $031A
_kills:         .res 1          ; $031B
_camera_x:      .res 2          ; $031C
_num_builds:    .res 1          ; $031E levels built since power-on
_build_frames:  .res 1          ; $031F frames that the last build took
