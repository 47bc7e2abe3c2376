# man: mdoc pages
dist_man_MANS += \
    man/modelpool.1 \
    man/modelpool.conf.5 \
    man/modelpoold.8 \
    man/spank_modelpool.8
