bin_PROGRAMS += cli/modelpool
cli_modelpool_SOURCES = cli/main.c cli/list.c cli/load.c cli/run.c cli/status.c cli/table.c cli/time.c cli/connect.c cli/config.c cli/stream.c cli/acct.c cli/acct_field.c
cli_modelpool_LDADD = model/libmodel.a common/libcommon.a $(EVENT_LIBS) $(JANSSON_LIBS) $(PCRE2_LIBS) $(UTF8PROC_LIBS) -lm
