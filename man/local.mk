dist_man_MANS += \
    man/spank_modelpool.8
