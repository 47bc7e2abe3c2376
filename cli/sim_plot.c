/* sim_plot.c - figures, by gnuplot */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/sim_command.h"

/* A gnuplot string in single quotes. */
static void quote(FILE *to, const char *text)
{
    fputc('\'', to);
    for (; *text != '\0'; text++) {
        if (*text == '\'')
            fputc('\'', to);
        fputc(*text, to);
    }
    fputc('\'', to);
}

FILE *sim_plot_begin(const char *path, const char *title, const char *size, struct error *err)
{
    FILE *to;

    if (strchr(path, '\n') != NULL) {
        error_set(err, STATUS_INVALID, "--plot=: a file's name has no newline");
        return NULL;
    }
    to = popen("gnuplot", "we");
    if (to == NULL) {
        error_errno(err, "gnuplot");
        return NULL;
    }
    fprintf(to, "set terminal svg size %s font 'sans,13' background 'white'\nset output ", size);
    quote(to, path);
    fputs("\nset title ", to);
    quote(to, title);
    fputs(" noenhanced\nset border 3\nset tics nomirror\n", to);
    return to;
}

int sim_plot_end(FILE *to, const char *path, struct error *err)
{
    int status = pclose(to);

    if (status == 0)
        return 0;
    return error_set(err, STATUS_IO, "%s: gnuplot could not draw it; is it installed?", path);
}

int sim_plot_curves(const char *path, const char *title, const struct sim_curve *curves,
                    uint32_t count, struct error *err)
{
    /* a hue a scheduler, a mark a switch */
    static const char *const styles[] = {"lc rgb '#bbbbbb' pt 6", "lc rgb '#777777' pt 7",
                                         "lc rgb '#f0b27a' pt 6", "lc rgb '#d55e00' pt 7",
                                         "lc rgb '#7e3800' pt 5", "lc rgb '#85c1e9' pt 6",
                                         "lc rgb '#0072b2' pt 7", "lc rgb '#003f63' pt 5"};
    FILE *to = sim_plot_begin(path, title, "960,540", err);

    if (to == NULL)
        return -1;
    for (uint32_t i = 0; i < count; i++) {
        fprintf(to, "$c%u << EOD\n", i);
        for (uint32_t k = 0; k < curves[i].count; k++)
            fprintf(to, "%g %g %g %g\n", curves[i].x[k], curves[i].y[k], curves[i].low[k],
                    curves[i].high[k]);
        fputs("EOD\n", to);
    }
    fputs(
        "set xlabel 'models'\nset ylabel 'tokens on time, % (bars: least and most of the seeds)'\n"
        "set yrange [30:102]\nset key outside right center\n"
        "set arrow 1 from graph 0, first 90 to graph 1, first 90 nohead lc rgb '#000000'\n"
        "set label 1 '90 %' at graph 0.01, first 91.5\nplot ",
        to);
    for (uint32_t i = 0; i < count; i++) {
        fprintf(to, "%s$c%u using 1:2 with linespoints lw 2 ps 0.5 %s title ", i > 0 ? ", " : "", i,
                styles[i % 8]);
        quote(to, curves[i].name);
        fprintf(to, ", $c%u with yerrorbars ps 0.4 %s notitle", i, styles[i % 8]);
    }
    fputc('\n', to);
    return sim_plot_end(to, path, err);
}

/* Each line of `turns`: device, beginning, first step, end, model, steps. */
int sim_plot_timeline(const char *path, const char *title, const char *turns, uint32_t devices,
                      double from, double until, struct error *err)
{
    FILE *to = sim_plot_begin(path, title, "1280,600", err);
    uint32_t shown = devices < 32 ? devices : 32;

    if (to == NULL)
        return -1;
    fprintf(to,
            "set xlabel 'seconds'\nset ylabel 'device'\nset xrange [%g:%g]\n"
            "set yrange [-0.6:%g]\nset ytics 0,1,%u\nset style fill solid 0.9 noborder\n"
            "set cblabel 'model'\nset palette rgbformulae 33,13,10\nset key below\nplot ",
            from, until, shown - 0.4, shown - 1);
    quote(to, turns);
    fputs(" using 3:1:3:4:($1-0.4):($1+0.4):5 with boxxyerror lc palette "
          "title 'turns, a colour a model', ",
          to);
    quote(to, turns);
    fputs(" using 2:1:2:3:($1-0.4):($1+0.4) with boxxyerror lc rgb '#000000' "
          "title 'waiting for weights or KV (black); white: idle'\n",
          to);
    return sim_plot_end(to, path, err);
}
