%% Erlang's side of the cluster benchmark, between two nodes. `erlang.py` beside this folder compiles and runs it.
%%
%% One node calls there/0, which lasts as long as its standard input. The other calls here/0 with the arguments
%% NODE one_way SIZE COUNT or NODE round_trips SIZE COUNT IN_FLIGHT, and prints
%% {"count": ..., "seconds": ..., "release": ...}.
-module(erlang_peer).
-export([there/0, here/0, sink/1, echo/0]).

there() ->
    case io:get_line("") of
        Line when is_list(Line) -> there();
        _ -> halt()
    end.

here() ->
    [Name, Scenario | Numbers] = init:get_plain_arguments(),
    There = list_to_atom(Name),
    ok = connect(There, 100),
    [Size, Count | More] = [list_to_integer(Number) || Number <- Numbers],
    Data = binary:copy(<<"x">>, Size),
    Microseconds =
        case {Scenario, More} of
            {"one_way", []} -> one_way(There, Data, Count);
            {"round_trips", [InFlight]} -> round_trips(There, Data, Count, InFlight)
        end,
    Release = erlang:system_info(otp_release),
    io:format("{\"count\": ~b, \"seconds\": ~.6f, \"release\": \"~s\"}~n", [Count, Microseconds / 1.0e6, Release]),
    halt().

%% The other node may still be starting.
connect(There, Tries) when Tries > 0 ->
    case net_kernel:connect_node(There) of
        true ->
            ok;
        false ->
            timer:sleep(100),
            connect(There, Tries - 1)
    end.

%% What runs on the other node is linked: if it dies, so does the run, and it goes when the run is over.

one_way(There, Data, Count) ->
    Sink = spawn_link(There, ?MODULE, sink, [0]),
    Start = now_us(),
    send(Sink, {load, Data}, Count),
    Sink ! {count, self()},
    receive
        {counted, Count} -> now_us() - Start
    end.

send(_Sink, _Load, 0) ->
    ok;
send(Sink, Load, Left) ->
    Sink ! Load,
    send(Sink, Load, Left - 1).

sink(Seen) ->
    receive
        {load, _Data} ->
            sink(Seen + 1);
        {count, Asker} ->
            Asker ! {counted, Seen},
            sink(0)
    end.

round_trips(There, Data, Count, InFlight) ->
    Echo = spawn_link(There, ?MODULE, echo, []),
    ask(Echo, Data, 1),
    Self = self(),
    Start = now_us(),
    Askers = [spawn_link(fun() -> ask(Echo, Data, Count div InFlight), Self ! {done, self()} end)
              || _ <- lists:seq(1, InFlight)],
    [receive {done, Asker} -> ok end || Asker <- Askers],
    now_us() - Start.

ask(_Echo, _Data, 0) ->
    ok;
ask(Echo, Data, Left) ->
    Reference = make_ref(),
    Echo ! {ask, self(), Reference, Data},
    receive
        {reply, Reference, _Same} -> ask(Echo, Data, Left - 1)
    end.

echo() ->
    receive
        {ask, Asker, Reference, Data} ->
            Asker ! {reply, Reference, Data},
            echo()
    end.

now_us() ->
    erlang:monotonic_time(microsecond).
